//! Certificates and proxies.

use std::path::Path;

use eventloader::source::FailureClass;
use eventloader::sources::http::{Clients, HttpOptions, HttpSource};
use eventloader::sources::tls::{ClientFiles, TlsFiles};
use eventloader::telemetry::chain;

use super::{fetch, ids, options, refused, source};
use crate::support::http::Server;
use crate::support::proxy::Proxy;
use crate::support::tls::{Authority, acceptor};

fn tls(server: &Server, host: &str, ca: &Authority) -> HttpOptions {
    let url = format!("https://{host}:{}/events", server.address.port());
    let tls = TlsFiles { ca_file: Some(ca.file()), client: None };
    HttpOptions { tls, ..options(&url) }
}

#[tokio::test]
async fn a_server_has_to_show_a_certificate_of_its_authority_for_its_name() {
    let (ca, other) = (Authority::new(), Authority::new());
    let good = Server::with_tls(acceptor(&ca.leaf("localhost", 4000), None)).await;
    let old = Server::with_tls(acceptor(&ca.leaf("localhost", 2021), None)).await;
    assert_eq!(ids(&fetch(&source(tls(&good, "localhost", &ca))).await.unwrap()), [1, 2, 3]);
    let public = HttpOptions { tls: TlsFiles::default(), ..tls(&good, "localhost", &ca) };
    for (options, reason) in [
        (tls(&good, "127.0.0.1", &ca), "not valid for name"),
        (tls(&good, "localhost", &other), "certificate"),
        (public, "certificate"),
        (tls(&old, "localhost", &ca), "certificate expired"),
    ] {
        let error = refused(&source(options)).await;
        assert_eq!(error.class, FailureClass::NotSent, "{error}");
        assert!(error.reason.contains(reason), "{error} should say {reason}");
    }
    assert_eq!((good.log().len(), old.log().len()), (1, 0), "a request went to the wrong server");
}

#[tokio::test]
async fn a_server_can_ask_for_our_certificate() {
    let (ca, other) = (Authority::new(), Authority::new());
    let server = Server::with_tls(acceptor(&ca.leaf("localhost", 4000), Some(&ca))).await;
    let with = |authority: &Authority| {
        let ours = authority.leaf("eventloader", 4000);
        let client = Some(ClientFiles { cert_file: ours.cert_file, key_file: ours.key_file });
        HttpOptions {
            tls: TlsFiles { ca_file: Some(ca.file()), client },
            ..tls(&server, "localhost", &ca)
        }
    };
    assert_eq!(ids(&fetch(&source(with(&ca))).await.unwrap()), [1, 2, 3]);
    for options in [tls(&server, "localhost", &ca), with(&other)] {
        let error = refused(&source(options)).await;
        assert_eq!(error.class, FailureClass::Rejected, "{error}");
        assert!(error.reason.contains("refused our certificate"), "{error}");
    }
    assert_eq!(server.log().len(), 1);
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let ca = Authority::new();
    let ours = ca.leaf("eventloader", 4000);
    let nothing = Path::new("/nonexistent/x.pem").to_owned();
    let files = |cert: &Path, key: &Path| {
        let client = ClientFiles { cert_file: cert.to_owned(), key_file: key.to_owned() };
        TlsFiles { ca_file: None, client: Some(client) }
    };
    let ca_file = |path: &Path| TlsFiles { ca_file: Some(path.to_owned()), client: None };
    for (tls, want) in [
        (ca_file(&nothing), "failed to read ca_file /nonexistent/x.pem: No such file"),
        (
            ca_file(&ours.key_file),
            "eventloader-4000-key.pem cannot be used: it has no \"-----BEGIN C",
        ),
        (files(&nothing, &ours.key_file), "failed to read client_cert_file /nonexistent"),
        (files(&ours.cert_file, &nothing), "failed to read client_key_file /nonexistent"),
        (files(&ours.key_file, &ours.key_file), "client_cert_file "),
        (files(&ours.cert_file, &ours.cert_file), "BEGIN PRIVATE KEY"),
    ] {
        let options = HttpOptions { tls, ..options("https://x/") };
        let error = HttpSource::new(&mut Clients::default(), options).err().unwrap();
        assert!(chain(&error).contains(want), "{} should say {want}", chain(&error));
    }
}

#[tokio::test]
async fn a_proxy_tunnels_to_https_and_forwards_http() {
    let ca = Authority::new();
    let secure = Server::with_tls(acceptor(&ca.leaf("localhost", 4000), None)).await;
    let plain = Server::with_events(3).await;
    // me:p@w
    let proxy = Proxy::start(Some("Basic bWU6cEB3")).await;
    let through = |user: &str, options: HttpOptions| {
        let url = format!("http://{user}{}", proxy.address);
        source(HttpOptions { proxy: Some(url.into()), ..options })
    };
    let tls = || tls(&secure, "localhost", &ca);
    let api = through("me:p%40w@", tls());
    assert_eq!(ids(&fetch(&api).await.unwrap()), [1, 2, 3]);
    let tunnel = proxy.log().pop().unwrap();
    assert_eq!(tunnel, format!("CONNECT localhost:{}", secure.address.port()));
    assert!(!secure.log()[0].headers.contains_key("proxy-authorization"), "the password got out");

    let api = through("me:p%40w@", options(&plain.url()));
    assert_eq!(ids(&fetch(&api).await.unwrap()), [1, 2, 3]);
    let forwarded = proxy.log().pop().unwrap();
    assert!(forwarded.starts_with(&format!("GET {}?after_id=0", plain.url())), "{forwarded}");

    let error = refused(&through("", tls())).await;
    assert_eq!(error.class, FailureClass::NotSent, "{error}");
    assert!(error.reason.contains("proxy"), "{error}");
    assert_eq!((secure.log().len(), proxy.log().len()), (1, 3));
    let shown = format!("{:?}", HttpOptions { proxy: Some("http://u:pw4@p".into()), ..tls() });
    assert!(!shown.contains("pw4"), "{shown}");
}

#[tokio::test]
async fn a_proxy_that_is_away_means_not_sent() {
    let server = Server::with_events(3).await;
    let proxy = Some("http://127.0.0.1:1".into());
    let error = refused(&source(HttpOptions { proxy, ..options(&server.url()) })).await;
    assert_eq!(error.class, FailureClass::NotSent, "{error}");
    assert!(server.log().is_empty());
}
