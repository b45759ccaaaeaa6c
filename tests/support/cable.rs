//! A cable between a client and a server that is cut at a word.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// When all connections are cut, once; but those that hold stay, and do so for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The server does not get what holds the word.
    Before(&'static str),
    /// The server gets it, and its answer is lost.
    After(&'static str),
    /// The server does not get it before [`Cable::release`], and the connection stays as it is.
    Hold(&'static str),
}

/// Listens on a port of its own and passes everything on. It ends with the value.
pub(crate) struct Cable {
    pub(crate) address: SocketAddr,
    cut: Arc<Mutex<Option<Cut>>>,
    holds: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cable {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = Arc::new(Mutex::new(None));
        let holds = Arc::new(AtomicBool::new(false));
        let (kept, held) = (Arc::clone(&cut), Arc::clone(&holds));
        let task = tokio::spawn(async move {
            loop {
                let mut connections = JoinSet::new();
                loop {
                    tokio::select! {
                        Ok((client, _)) = listener.accept() => {
                            connections.spawn(pass(client, port, Arc::clone(&kept), Arc::clone(&held)));
                        }
                        // A connection that was cut takes the others with it.
                        Some(Ok(true)) = connections.join_next() => break,
                    }
                }
            }
        });
        Self { address, cut, holds, task: task.abort_handle() }
    }

    /// From now on.
    pub(crate) fn cut_at(&self, cut: Cut) {
        *self.cut.lock().unwrap() = Some(cut);
    }

    /// Whether something was held.
    pub(crate) fn holds(&self) -> bool {
        self.holds.load(Ordering::Relaxed)
    }

    /// What is held goes on.
    pub(crate) fn release(&self) {
        *self.cut.lock().unwrap() = None;
    }
}

/// Answers whether it was cut.
async fn pass(
    client: TcpStream,
    port: u16,
    cut: Arc<Mutex<Option<Cut>>>,
    holds: Arc<AtomicBool>,
) -> bool {
    let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut answers = tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = tokio::select! {
            length = from_client.read(&mut buffer) => length.unwrap_or(0),
            _ = &mut answers => return false,
        };
        if length == 0 {
            answers.abort();
            return false;
        }
        let bytes = &buffer[..length];
        let has = |word: &str| bytes.windows(word.len()).any(|found| found == word.as_bytes());
        let is_held = || matches!(*cut.lock().unwrap(), Some(Cut::Hold(word)) if has(word));
        while is_held() {
            holds.store(true, Ordering::Relaxed);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
                _ = &mut answers => return false,
            }
        }
        let met = cut.lock().unwrap().take_if(|cut| match cut {
            Cut::Before(word) | Cut::After(word) => has(word),
            Cut::Hold(_) => false,
        });
        if let Some(cut) = met {
            answers.abort();
            if let Cut::After(_) = cut {
                to_server.write_all(bytes).await.unwrap();
                // What the server is sent before it is left is carried out.
                to_server.shutdown().await.unwrap();
                drop((&mut answers).await);
            }
            return true;
        }
        if to_server.write_all(bytes).await.is_err() {
            return false;
        }
    }
}
