//! TLS as the client library wants it.

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::sources::tls::{TlsError, TlsFiles, read, read_certificates};

/// Reads the files.
pub(super) fn connector(files: &TlsFiles) -> Result<RustlsConnector, TlsError> {
    let config = match &files.ca_file {
        None => RustlsConnectorConfig::new_with_platform_verifier(),
        Some(path) => RustlsConnectorConfig::default()
            .with_parsable_certificates(read_certificates("ca_file", path)?),
    };
    let Some(client) = &files.client else {
        return config.connector_with_no_client_auth().map_err(TlsError::Setup);
    };
    let chain = read_certificates("client_cert_file", &client.cert_file)?;
    let pem = read("client_key_file", &client.key_file)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::Pem {
        key: "client_key_file",
        path: client.key_file.clone(),
        reason: if String::from_utf8_lossy(&pem).contains("ENCRYPTED") {
            "its key is encrypted; write it without a pass phrase".to_owned()
        } else {
            "it has no \"-----BEGIN PRIVATE KEY-----\"".to_owned()
        },
    })?;
    config.connector_with_single_cert(chain, key).map_err(TlsError::Setup)
}
