//! The proxy that the source is asked through.

use secrecy::SecretString;
use url::Url;

use crate::config::error::Problem;
use crate::config::reader::TableReader;
use crate::config::setting::Setting;

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
