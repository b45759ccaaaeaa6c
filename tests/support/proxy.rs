//! A forward proxy that keeps its own log: tunnels for `CONNECT`, and requests with a whole URL.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// A proxy; it ends with the value.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// `CONNECT localhost:443` or `GET http://localhost/x`, of each request.
    log: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Starts a proxy; where a value of `Proxy-Authorization` is given, it serves nobody else.
    pub(crate) async fn start(wanted: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&log);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let log = Arc::clone(&kept);
                tokio::spawn(async move { drop(serve(stream, &log, wanted).await) });
            }
        });
        Self { address, log, task: task.abort_handle() }
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

async fn serve(
    stream: TcpStream,
    log: &Mutex<Vec<String>>,
    wanted: Option<&str>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let headers: HashMap<_, _> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let (what, version) = lines[0].rsplit_once(' ').unwrap();
    let is_welcome = wanted.is_none_or(|wanted| {
        headers.get("proxy-authorization").is_some_and(|given| given == wanted)
    });
    log.lock().unwrap().push(what.to_owned());
    if !is_welcome {
        let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        return stream.write_all(refusal.as_bytes()).await;
    }
    let (method, target) = what.split_once(' ').unwrap();
    if method == "CONNECT" {
        let mut server = TcpStream::connect(target).await?;
        stream.write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n").await?;
        copy_bidirectional(&mut stream, &mut server).await?;
        return Ok(());
    }
    let url: url::Url = target.parse().unwrap();
    let address = (url.host_str().unwrap(), url.port_or_known_default().unwrap());
    let mut server = TcpStream::connect(address).await?;
    let path = &url[url::Position::BeforePath..];
    let head = [&[format!("{method} {path} {version}")][..], &lines[1..]].concat().join("\r\n");
    server.write_all(format!("{head}\r\n\r\n").as_bytes()).await?;
    copy_bidirectional(&mut stream, &mut server).await?;
    Ok(())
}
