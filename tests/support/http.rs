//! A real HTTP server that answers what the test says, byte by byte if need be, and keeps its own log.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// One request, as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// When its first byte was there.
    pub(crate) at: Instant,
    /// `GET`.
    pub(crate) method: String,
    /// `/events`.
    pub(crate) path: String,
    /// Of the query, or of the member of this name in the body; else 0.
    pub(crate) after_id: i64,
    /// Like `after_id`; else 1000.
    pub(crate) limit: usize,
    pub(crate) query: HashMap<String, String>,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

/// What the server does about a request.
pub(crate) enum Reply {
    /// 200 with this body.
    Json(String),
    /// A status with headers and a body.
    Status(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// These bytes and nothing else; then the connection is closed.
    Raw(Vec<u8>),
    /// The connection is closed without a byte.
    Drop,
    /// Nothing for this long, then the other reply.
    After(Duration, Box<Reply>),
    /// 200, then one byte of a body per interval, without end.
    Drip(Duration),
    /// 200, then one header per interval, without end.
    DripHead(Duration),
}

type Handler = dyn Fn(&Asked) -> Reply + Send + Sync;

/// A server; it ends with the value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<Asked>>>,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Starts on a free port of the loopback address.
    pub(crate) async fn start(handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap(), handler).await
    }

    /// Starts on this address.
    pub(crate) async fn start_on(
        address: SocketAddr,
        handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(address, None, handler).await
    }

    /// Starts with TLS and serves events 1..=3.
    pub(crate) async fn with_tls(acceptor: TlsAcceptor) -> Self {
        let address = "127.0.0.1:0".parse().unwrap();
        Self::start_with(address, Some(acceptor), |asked| Reply::Json(page(asked, 3))).await
    }

    async fn start_with(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let handler: Arc<Handler> = Arc::new(handler);
        let task = tokio::spawn(accept(listener, tls, Arc::clone(&log), handler)).abort_handle();
        Self { address, log, task }
    }

    /// Serves events 1..=`count` of `{"id": n, "n": "…"}`.
    pub(crate) async fn with_events(count: i64) -> Self {
        Self::start(move |asked| Reply::Json(page(asked, count))).await
    }

    pub(crate) fn url(&self) -> String {
        self.url_of("/events")
    }

    /// For one of several sources on one server.
    pub(crate) fn url_of(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The requests so far, in the order they came.
    pub(crate) fn log(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }

    /// How often this window was asked for on this path.
    pub(crate) fn asked(&self, path: &str, after_id: i64) -> usize {
        let log = self.log.lock().unwrap();
        log.iter().filter(|asked| asked.path == path && asked.after_id == after_id).count()
    }

    /// The `after_id` of each request, in the order they came.
    pub(crate) fn windows(&self) -> Vec<i64> {
        self.log().iter().map(|asked| asked.after_id).collect()
    }
}

/// The page of a well-behaved source with `count` events.
pub(crate) fn page(asked: &Asked, count: i64) -> String {
    let last = count.min(asked.after_id.saturating_add_unsigned(asked.limit as u64));
    let events: Vec<String> = (asked.after_id.max(0) + 1..=last)
        .map(|id| format!(r#"{{"id":{id},"n":"event {id}"}}"#))
        .collect();
    format!("[{}]", events.join(","))
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    log: Arc<Mutex<Vec<Asked>>>,
    handler: Arc<Handler>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let (tls, log, handler) = (tls.clone(), Arc::clone(&log), Arc::clone(&handler));
        tokio::spawn(async move {
            // A client that goes away is the client's business.
            drop(match tls {
                None => serve(stream, &log, &*handler).await,
                Some(tls) => serve_tls(&tls, stream, &log, &*handler).await,
            });
        });
    }
}

async fn serve_tls(
    tls: &TlsAcceptor,
    stream: TcpStream,
    log: &Mutex<Vec<Asked>>,
    handler: &Handler,
) -> std::io::Result<()> {
    match tls.accept(stream).into_fallible().await {
        Ok(stream) => converse(stream, Instant::now(), log, handler).await,
        Err((_, mut stream)) => {
            // The alert is sent. A socket that is closed with something unread in it would take it back.
            stream.shutdown().await?;
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop)
        }
    }
}

async fn serve(
    stream: TcpStream,
    log: &Mutex<Vec<Asked>>,
    handler: &Handler,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.readable().await?;
    let at = Instant::now();
    converse(stream, at, log, handler).await
}

/// Reads one request and answers it.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    at: Instant,
    log: &Mutex<Vec<Asked>>,
    handler: &Handler,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_owned()),
        }
    }
    let length = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    let body = String::from_utf8(body).unwrap();
    let Some(asked) = parse(&lines, at, body) else { return Ok(()) };
    log.lock().unwrap().push(asked.clone());
    answer(stream.get_mut(), handler(&asked)).await
}

fn parse(lines: &[String], at: Instant, body: String) -> Option<Asked> {
    let mut words = lines.first()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let url = url::Url::parse("http://server").ok()?.join(target).ok()?;
    let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
    let headers = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let json: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    let number = |name: &str| match query.get(name) {
        Some(text) => text.parse().ok(),
        None => json.get(name).and_then(serde_json::Value::as_i64),
    };
    Some(Asked {
        at,
        method: method.to_owned(),
        path: url.path().to_owned(),
        after_id: number("after_id").unwrap_or(0),
        limit: number("limit").and_then(|limit| limit.try_into().ok()).unwrap_or(1000),
        query,
        headers,
        body,
    })
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin), mut reply: Reply) -> std::io::Result<()> {
    while let Reply::After(delay, then) = reply {
        tokio::time::sleep(delay).await;
        reply = *then;
    }
    match reply {
        Reply::Json(body) => {
            let headers = vec![("content-type", "application/json".to_owned())];
            stream.write_all(&response(200, &headers, body.as_bytes())).await?;
        }
        Reply::Status(status, headers, body) => {
            stream.write_all(&response(status, &headers, &body)).await?;
        }
        Reply::Raw(bytes) => stream.write_all(&bytes).await?,
        Reply::Drop | Reply::After(..) => {}
        Reply::Drip(interval) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await?;
            loop {
                stream.write_all(b" ").await?;
                tokio::time::sleep(interval).await;
            }
        }
        Reply::DripHead(interval) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            loop {
                stream.write_all(b"x-more: yes\r\n").await?;
                tokio::time::sleep(interval).await;
            }
        }
    }
    stream.shutdown().await
}

fn response(status: u16, headers: &[(&'static str, String)], body: &[u8]) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 {status} Status\r\ncontent-length: {}\r\nconnection: close\r\n",
        body.len()
    );
    for (name, value) in headers {
        head = head + name + ": " + value + "\r\n";
    }
    head.push_str("\r\n");
    [head.as_bytes(), body].concat()
}
