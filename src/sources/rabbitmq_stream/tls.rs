//! TLS of either protocol.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::sources::tls::{TlsError, read_certificates};

/// Trusts the authorities in a PEM file, or those that the machine trusts.
pub(super) fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let setup = |cause: rustls::Error| TlsError::Setup(io::Error::other(cause));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(setup)?;
    let Some(path) = ca_file else {
        let builder = builder.with_platform_verifier().map_err(setup)?;
        return Ok(builder.with_no_client_auth());
    };
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates("ca_file", path)? {
        roots.add(certificate).map_err(|error| TlsError::Pem {
            key: "ca_file",
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
