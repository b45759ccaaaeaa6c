//! Certificates.

use std::path::{Path, PathBuf};

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// `ca_file`, `client_cert_file`, `client_key_file`: PEM files, read when the source is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// `ca_file`: the certificates that sign brokers, instead of the public ones. Default: those that the machine trusts.
    pub ca_file: Option<PathBuf>,
    /// `client_cert_file`, with intermediate ones after it, and `client_key_file`, its key, not encrypted. Default: none.
    pub client: Option<(PathBuf, PathBuf)>,
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

impl TlsFiles {
    /// Reads the files.
    pub(super) fn connector(&self) -> Result<RustlsConnector, TlsError> {
        let config = match &self.ca_file {
            None => RustlsConnectorConfig::new_with_platform_verifier(),
            Some(path) => RustlsConnectorConfig::default()
                .with_parsable_certificates(read_certificates("ca_file", path)?),
        };
        let Some((cert_file, key_file)) = &self.client else {
            return config.connector_with_no_client_auth().map_err(TlsError::Setup);
        };
        let chain = read_certificates("client_cert_file", cert_file)?;
        let pem = read("client_key_file", key_file)?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::Pem {
            key: "client_key_file",
            path: key_file.clone(),
            reason: if String::from_utf8_lossy(&pem).contains("ENCRYPTED") {
                "its key is encrypted; write it without a pass phrase".to_owned()
            } else {
                "it has no \"-----BEGIN PRIVATE KEY-----\"".to_owned()
            },
        })?;
        config.connector_with_single_cert(chain, key).map_err(TlsError::Setup)
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|cause| TlsError::File { key, path: path.to_owned(), cause })
}

fn read_certificates(
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
