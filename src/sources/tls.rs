//! Certificates: the files that sources are given, and what is wrong with those of a server or with our own.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{AlertDescription, CertificateError};

/// `ca_file`, `client_cert_file`, `client_key_file`: PEM files, read when the source is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsFiles {
    /// `ca_file`: the certificates that sign servers. They replace the public ones: who has a certificate authority of
    /// their own wants no other to vouch for the source. Default: those that the machine trusts.
    pub ca_file: Option<PathBuf>,
    /// `client_cert_file` and `client_key_file`: the certificate (and what leads to its root) and the key that this
    /// client shows. Both or none; default none.
    pub client: Option<ClientFiles>,
}

/// A certificate of our own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientFiles {
    /// The certificate, followed by intermediate ones.
    pub cert_file: PathBuf,
    /// Its key: PKCS 8, PKCS 1 or SEC 1, not encrypted.
    pub key_file: PathBuf,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {key} {path}")]
    File {
        /// Of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: std::io::Error,
    },
    /// A file holds something else.
    #[error("{key} {path} cannot be used: {reason}")]
    Pem {
        /// Of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// The machine's own certificates, or certificate and key, do not work out.
    #[error("TLS cannot be set up")]
    Setup(#[source] std::io::Error),
}

/// Reads the file that a key of the configuration names.
pub(super) fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|cause| TlsError::File { key, path: path.to_owned(), cause })
}

/// Reads the certificates in such a file, at least one.
pub(super) fn read_certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(key, path)?;
    let unusable = |reason: String| TlsError::Pem { key, path: path.to_owned(), reason };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable("it has no \"-----BEGIN CERTIFICATE-----\"".to_owned()));
    }
    Ok(certificates)
}

/// What to do about a broker whose certificate is not trusted.
pub(super) fn certificate_fix(problem: &CertificateError) -> &'static str {
    match problem {
        CertificateError::UnknownIssuer => {
            "name the certificate of the authority that signed the broker's as ca_file"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "write the host in the URL as it stands in the broker's certificate"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "renew the broker's certificate"
        }
        _ => "see the broker's certificate, and ca_file",
    }
}

/// Whether an alert is about our certificate. With TLS 1.3 a server looks at it when the handshake is over for us.
pub(super) fn certificate_is_refused(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::DecryptError
            | AlertDescription::HandshakeFailure
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}
