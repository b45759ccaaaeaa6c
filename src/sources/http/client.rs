//! The clients that HTTP sources share.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::Resolve;
use reqwest::{Certificate, Client, Identity, Proxy, redirect, retry};
use secrecy::ExposeSecret;

use super::address::{AllowHosts, CheckedResolver, SystemResolver};
use super::failure::cause;
use super::{HttpOptions, HttpSourceError};
use crate::sources::tls::{ClientFiles, TlsFiles};

/// What makes one client unlike another. No `Debug`: the proxy may hold a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ClientKey {
    connect_timeout: Duration,
    tls: TlsFiles,
    proxy: Option<String>,
    allow_hosts: Option<AllowHosts>,
}

impl ClientKey {
    pub(super) fn new(options: &HttpOptions, connect_timeout: Duration) -> Self {
        let proxy = options.proxy.as_ref().map(|proxy| proxy.expose_secret().to_owned());
        // A proxy resolves the source's name itself; here only its own is looked up, which was configured.
        let allow_hosts = options.allow_hosts.clone().filter(|_| proxy.is_none());
        Self { connect_timeout, tls: options.tls.clone(), proxy, allow_hosts }
    }
}

/// The clients that HTTP sources share: setting one up reads every root certificate, which takes milliseconds. Sources
/// with the same time to connect, certificates, proxy and allowed hosts have the same one.
pub struct Clients {
    by_key: HashMap<ClientKey, Client>,
    resolver: Arc<dyn Resolve>,
}

impl Default for Clients {
    fn default() -> Self {
        Self::resolving_with(Arc::new(SystemResolver))
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("count", &self.by_key.len()).finish_non_exhaustive()
    }
}

impl Clients {
    /// Clients that look names up in their own way. What it answers is checked like the machine's own answers.
    pub fn resolving_with(resolver: Arc<dyn Resolve>) -> Self {
        Self { by_key: HashMap::new(), resolver }
    }

    pub(super) fn get(&mut self, key: ClientKey) -> Result<Client, HttpSourceError> {
        if let Some(client) = self.by_key.get(&key) {
            return Ok(client.clone());
        }
        let client = self.build(&key)?;
        self.by_key.insert(key, client.clone());
        Ok(client)
    }

    fn build(&self, key: &ClientKey) -> Result<Client, HttpSourceError> {
        let resolver =
            CheckedResolver { inner: Arc::clone(&self.resolver), allow: key.allow_hosts.clone() };
        let mut builder = Client::builder()
            .user_agent(concat!("eventloader/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .no_proxy()
            .referer(false)
            .http1_only()
            .pool_max_idle_per_host(0)
            .connect_timeout(key.connect_timeout)
            .dns_resolver(resolver);
        if let Some(proxy) = &key.proxy {
            builder = builder.proxy(Proxy::all(proxy).map_err(HttpSourceError::Proxy)?);
        }
        if let Some(path) = &key.tls.ca_file {
            builder = builder.tls_certs_only(read_certificates(path)?);
        }
        if let Some(client) = &key.tls.client {
            builder = builder.identity(read_identity(client)?);
        }
        builder.build().map_err(HttpSourceError::Client)
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, HttpSourceError> {
    let unreadable = |cause| HttpSourceError::File { key, path: path.to_owned(), cause };
    std::fs::read(path).map_err(unreadable)
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate>, HttpSourceError> {
    let key = "ca_file";
    let pem = read(key, path)?;
    let not_pem = |reason: String| HttpSourceError::Pem { key, path: path.to_owned(), reason };
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| not_pem(cause(error)))?;
    if certificates.is_empty() {
        return Err(not_pem("it has no \"-----BEGIN CERTIFICATE-----\"".to_owned()));
    }
    Ok(certificates)
}

fn read_identity(files: &ClientFiles) -> Result<Identity, HttpSourceError> {
    let mut pem = read("client_key_file", &files.key_file)?;
    let certificate = read("client_cert_file", &files.cert_file)?;
    let not_pem = |key, path: &Path, reason: String| {
        Err(HttpSourceError::Pem { key, path: path.to_owned(), reason })
    };
    let has = |pem: &[u8], what: &str| String::from_utf8_lossy(pem).contains(what);
    if !has(&pem, "PRIVATE KEY-----") {
        let reason = "it has no \"-----BEGIN PRIVATE KEY-----\"".to_owned();
        return not_pem("client_key_file", &files.key_file, reason);
    }
    if has(&pem, "ENCRYPTED") {
        let reason = "its key is encrypted; write it without a pass phrase".to_owned();
        return not_pem("client_key_file", &files.key_file, reason);
    }
    if !has(&certificate, "-----BEGIN CERTIFICATE-----") {
        let reason = "it has no \"-----BEGIN CERTIFICATE-----\"".to_owned();
        return not_pem("client_cert_file", &files.cert_file, reason);
    }
    pem.push(b'\n');
    pem.extend_from_slice(&certificate);
    Identity::from_pem(&pem)
        .or_else(|error| not_pem("client_key_file", &files.key_file, cause(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::http::{Auth, HttpSource};

    #[test]
    fn sources_share_a_client_unless_they_connect_differently() {
        let mut clients = Clients::default();
        let plain = || HttpOptions::new("https://x.example/".parse().unwrap());
        let allow = |entry: &str| {
            let mut allow = AllowHosts::default();
            allow.add(entry).unwrap();
            Some(allow)
        };
        let token = Some(Auth::Bearer { token: "t".into() });
        for (options, count) in [
            (plain(), 1),
            (HttpOptions { auth: token, ..plain() }, 1),
            (HttpOptions { max_page_bytes: 1, ..plain() }, 1),
            (HttpOptions { timeout: Duration::from_secs(1), ..plain() }, 2),
            (HttpOptions { proxy: Some("http://u:pw1@p:1".into()), ..plain() }, 3),
            (HttpOptions { proxy: Some("http://u:pw2@p:1".into()), ..plain() }, 4),
            (HttpOptions { allow_hosts: allow("*.example"), ..plain() }, 5),
            (HttpOptions { allow_hosts: allow("*.example"), ..plain() }, 5),
            (HttpOptions { allow_hosts: allow("x.example"), ..plain() }, 6),
        ] {
            HttpSource::new(&mut clients, options).unwrap();
            assert_eq!(clients.by_key.len(), count);
        }
        assert!(!format!("{clients:?}").contains("pw1"));
    }
}
