//! Which addresses are connected to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use eventloader::source::FailureClass;
use eventloader::sources::http::{AllowHosts, Clients, HttpOptions, HttpSource};
use eventloader::telemetry::chain;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::{fetch, ids, options, refused, source};
use crate::support::http::Server;

/// Answers one list of addresses after the other, and the last one for ever.
struct Answers {
    answers: Mutex<Vec<Vec<SocketAddr>>>,
    asked: Mutex<Vec<String>>,
}

impl Answers {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let address = |ip: &&str| SocketAddr::new(ip.parse().unwrap(), 0);
        let answers = answers.iter().rev().map(|ips| ips.iter().map(address).collect()).collect();
        Arc::new(Self { answers: Mutex::new(answers), asked: Mutex::default() })
    }
}

impl Resolve for Answers {
    fn resolve(&self, name: Name) -> Resolving {
        self.asked.lock().unwrap().push(name.as_str().to_owned());
        let mut answers = self.answers.lock().unwrap();
        let next = if answers.len() > 1 { answers.pop() } else { answers.last().cloned() };
        let addresses = next.unwrap_or_default();
        Box::pin(async move { Ok(Box::new(addresses.into_iter()) as Addrs) })
    }
}

fn allow(entries: &[&str]) -> AllowHosts {
    let mut allow = AllowHosts::default();
    for entry in entries {
        allow.add(entry).unwrap();
    }
    allow
}

fn named(host: &str, server: &Server) -> HttpOptions {
    options(&format!("http://{host}:{}/events", server.address.port()))
}

fn resolved(answers: &Arc<Answers>, options: HttpOptions) -> HttpSource {
    let resolver = Arc::clone(answers) as Arc<dyn Resolve>;
    HttpSource::new(&mut Clients::resolving_with(resolver), options).unwrap()
}

#[tokio::test]
async fn localhost_and_addresses_work_without_a_list_and_have_to_be_in_one() {
    let server = Server::with_events(3).await;
    for (host, list, is_allowed) in [
        ("localhost", None, true),
        ("127.0.0.1", None, true),
        ("[::ffff:127.0.0.1]", None, true),
        ("localhost", Some(allow(&["localhost", "127.0.0.0/8", "::1"])), true),
        ("127.0.0.1", Some(allow(&["127.0.0.1"])), true),
        ("localhost", Some(allow(&["localhost"])), false),
        ("localhost", Some(allow(&["*", "10.0.0.0/8"])), false),
    ] {
        let allow_hosts = list.clone();
        let api = source(HttpOptions { allow_hosts, ..named(host, &server) });
        if is_allowed {
            assert_eq!(ids(&fetch(&api).await.unwrap()), [1, 2, 3], "{host} {list:?}");
        } else {
            let error = refused(&api).await;
            assert_eq!(error.class, FailureClass::Rejected, "{error}");
            assert!(error.reason.contains("localhost is at "), "{error}");
            assert!(error.reason.contains("a loopback address; add \""), "{error}");
        }
    }
    let before = server.log().len();
    for (host, list) in [
        ("127.0.0.1", Some(allow(&["*", "10.0.0.0/8"]))),
        ("localhost", Some(allow(&["example.com", "127.0.0.1"]))),
        ("169.254.169.254", None),
        ("[::ffff:169.254.169.254]", None),
    ] {
        let options = HttpOptions { allow_hosts: list, ..named(host, &server) };
        let error = HttpSource::new(&mut Clients::default(), options).err().unwrap();
        assert!(chain(&error).contains("allow_hosts"), "{host}: {}", chain(&error));
    }
    assert_eq!(server.log().len(), before);
}

/// A name that answers a good address when it is checked and another one when it is connected to gains nothing: there
/// is one lookup per request, and its addresses are the ones that were checked.
#[tokio::test]
async fn a_name_is_looked_up_once_and_only_checked_addresses_are_connected_to() {
    let server = Server::with_events(3).await;
    let list = || Some(allow(&["rebound.test", "127.0.0.1/32"]));
    let metadata = "169.254.169.254";
    let answers = Answers::new(&[&["127.0.0.1"], &[metadata], &["10.0.0.7", "127.0.0.1"]]);
    let api =
        resolved(&answers, HttpOptions { allow_hosts: list(), ..named("rebound.test", &server) });
    assert_eq!(ids(&fetch(&api).await.unwrap()), [1, 2, 3]);
    assert_eq!(*answers.asked.lock().unwrap(), ["rebound.test"]);
    let error = refused(&api).await;
    assert_eq!(error.class, FailureClass::Rejected, "{error}");
    assert!(error.reason.contains("rebound.test is at 169.254.169.254, a metadata"), "{error}");
    // Of several addresses the bad ones are left out.
    assert_eq!(ids(&fetch(&api).await.unwrap()), [1, 2, 3]);
    assert_eq!((answers.asked.lock().unwrap().len(), server.log().len()), (3, 2));
}

#[tokio::test]
async fn a_name_without_a_list_may_be_private_but_not_a_metadata_service() {
    let server = Server::with_events(3).await;
    for ip in ["169.254.169.254", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "0.0.0.0"] {
        let api = resolved(&Answers::new(&[&[ip]]), named("api.test", &server));
        let error = refused(&api).await;
        assert_eq!(error.class, FailureClass::Rejected, "{error}");
        assert!(error.reason.contains(&format!("api.test is at {ip}")), "{error}");
    }
    let nobody = resolved(&Answers::new(&[&[]]), named("api.test", &server));
    assert_eq!(refused(&nobody).await.class, FailureClass::NotSent);
    // The first address refuses connections; the second is tried.
    let both = Answers::new(&[&["127.0.0.9", "127.0.0.1"]]);
    assert_eq!(ids(&fetch(&resolved(&both, named("api.test", &server))).await.unwrap()), [1, 2, 3]);
}
