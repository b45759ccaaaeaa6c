//! Certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read ca_file {0}")]
    File(PathBuf, #[source] std::io::Error),
    /// The file holds something else.
    #[error("ca_file {0} cannot be used: {1}")]
    Pem(PathBuf, String),
    /// The machine's own certificates do not work out.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// Trusts the authorities in a PEM file, or those that the machine trusts.
pub(super) fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(TlsError::Setup)?;
    let Some(path) = ca_file else {
        let builder = builder.with_platform_verifier().map_err(TlsError::Setup)?;
        return Ok(builder.with_no_client_auth());
    };
    let pem = std::fs::read(path).map_err(|cause| TlsError::File(path.to_owned(), cause))?;
    let unusable = |reason: String| TlsError::Pem(path.to_owned(), reason);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("it has no \"-----BEGIN CERTIFICATE-----\"".to_owned()));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
