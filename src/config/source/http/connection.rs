//! How the source is connected to: certificates and the proxy.

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use url::Url;

use crate::config::error::Problem;
use crate::config::reader::TableReader;
use crate::config::setting::Setting;
use crate::config::source::file;
use crate::sources::http::{ClientFiles, TlsFiles};

/// Reads which certificate files there are. They are read when the source is made.
pub(in crate::config::source) fn read_tls(table: &mut TableReader<'_>) -> TlsFiles {
    let base = table.document().path.parent().unwrap_or(Path::new(""));
    let mut path = |key| table.read(key, |s| file::path(s, base, "a file")).map(|read| read.value);
    let ca_file = path("ca_file");
    let cert_file = path("client_cert_file");
    let key_file = path("client_key_file");
    let lonely = |key: &str, missing: &str, table: &TableReader<'_>| {
        let problem = Problem::new(format!("without {missing}"));
        let help = format!("a certificate needs its key: add {missing}, or take {key} out");
        table.refuse(key, problem.help(help));
    };
    let has = |path: &Option<PathBuf>, key: &str| path.is_some() || table.has(key);
    match (has(&cert_file, "client_cert_file"), has(&key_file, "client_key_file")) {
        (true, false) => lonely("client_cert_file", "client_key_file", table),
        (false, true) => lonely("client_key_file", "client_cert_file", table),
        _ => {}
    }
    let client = cert_file.zip(key_file);
    let client = client.map(|(cert_file, key_file)| ClientFiles { cert_file, key_file });
    TlsFiles { ca_file, client }
}

/// Reads the proxy's URL.
pub(super) fn read_proxy(table: &mut TableReader<'_>) -> Option<SecretString> {
    table.read("proxy", proxy_url).map(|read| read.value)
}

fn proxy_url(setting: &Setting<'_>) -> Result<SecretString, Problem> {
    let text = setting.text()?;
    let expected = "http://user:password@proxy.example.com:3128, or https://";
    let refuse = |reason: &str| text.refuse(Problem::new(reason).expected(expected));
    let url =
        Url::parse(text.value.trim()).map_err(|error| refuse(&format!("not a URL ({error})")))?;
    match (url.scheme(), url.host(), url.path(), url.query()) {
        ("http" | "https", Some(_), "/", None) => Ok(SecretString::from(url.as_str())),
        ("http" | "https", Some(_), ..) => {
            Err(refuse("a proxy with a path").help("end it after the port"))
        }
        _ => Err(refuse("not an http or https proxy")),
    }
}
