//! The wire between one instance and the database. It knows PostgreSQL's messages well enough to end the instance, or
//! the connection, before a statement is passed on, after it, or after its reply, which the instance never gets.
//!
//! The product's calls are single statements that commit by themselves: what is passed on with its Sync and answered is
//! committed, so a reply that is cut is the lost reply of a COMMIT.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// What a statement is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Claim,
    Deposit,
    Close,
    Move,
    Messages,
    Other,
}

impl Call {
    fn of(sql: &str) -> Self {
        let names = [
            ("eventloader.claim", Self::Claim),
            ("eventloader.deposit_page", Self::Deposit),
            ("eventloader.close_request", Self::Close),
            ("eventloader.move_batch", Self::Move),
            ("eventloader.deposit_messages", Self::Messages),
        ];
        names.iter().find(|(name, _)| sql.contains(name)).map_or(Self::Other, |(_, call)| *call)
    }
}

/// Which statement is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// The n-th of the process, from 1.
    Statement(u64),
    /// The next of this kind.
    Call(Call),
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Unsent,
    Sent,
    /// The server has answered, and the instance does not hear it.
    Answered,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Kill,
    Cut,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) at: At,
    pub(crate) phase: Phase,
    pub(crate) then: Then,
}

struct State {
    order: Mutex<Option<Order>>,
    /// How many orders were carried out.
    carried: watch::Sender<u64>,
    /// Counts; connections that see it change end.
    cut: watch::Sender<u64>,
    stalled_until: Mutex<Option<Instant>>,
    pid: AtomicU32,
    statements: AtomicU64,
}

/// It ends with the value.
pub(crate) struct Wire {
    pub(crate) port: u16,
    state: Arc<State>,
    task: AbortHandle,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Wire {
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            order: Mutex::default(),
            carried: watch::channel(0).0,
            cut: watch::channel(0).0,
            stalled_until: Mutex::default(),
            pid: AtomicU32::new(0),
            statements: AtomicU64::new(0),
        });
        let kept = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let state = Arc::clone(&kept);
                tokio::spawn(async move {
                    // That either side goes away is what this is for.
                    drop(relay(client, server, &state).await);
                });
            }
        });
        Self { port, state, task: task.abort_handle() }
    }

    /// A new process is behind it.
    pub(crate) fn attach(&self, pid: u32) {
        self.state.statements.store(0, Ordering::SeqCst);
        self.state.pid.store(pid, Ordering::SeqCst);
    }

    /// Gives an order; it takes the place of one that was not carried out.
    pub(crate) fn give(&self, order: Option<Order>) {
        *self.state.order.lock().unwrap() = order;
    }

    /// Waits until the order is carried out; `false`: it was not, in this time, and is taken back.
    pub(crate) async fn is_carried(&self, patience: Duration) -> bool {
        let mut carried = self.state.carried.subscribe();
        if self.state.order.lock().unwrap().is_some() {
            drop(tokio::time::timeout(patience, carried.changed()).await);
        }
        self.state.order.lock().unwrap().take().is_none()
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        self.state.cut.send_modify(|count| *count += 1);
    }

    /// Passes nothing on for a while.
    pub(crate) fn stall(&self, time: Duration) {
        *self.state.stalled_until.lock().unwrap() = Some(Instant::now() + time);
    }
}

impl State {
    /// The order that this statement meets.
    fn met(&self, call: Call) -> Option<Order> {
        let number = self.statements.fetch_add(1, Ordering::SeqCst) + 1;
        let is_met = |order: &mut Order| match order.at {
            At::Statement(wanted) => number >= wanted,
            At::Call(wanted) => call == wanted,
        };
        // An order whose reply is waited for stays until it is carried out.
        let mut order = self.order.lock().unwrap();
        order.as_mut().is_some_and(is_met).then(|| order.unwrap())
    }

    fn carry_out(&self, order: Order) {
        let pid = i32::try_from(self.pid.load(Ordering::SeqCst)).unwrap();
        if let (Then::Kill, Some(pid)) = (order.then, Pid::from_raw(pid)) {
            // It may have ended by itself.
            let _gone = kill_process(pid, Signal::KILL);
        }
        *self.order.lock().unwrap() = None;
        self.carried.send_modify(|count| *count += 1);
    }

    async fn wait_while_stalled(&self) {
        let until = *self.stalled_until.lock().unwrap();
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
    }
}

async fn relay(mut client: TcpStream, server: u16, state: &State) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut cut = state.cut.subscribe();
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let mut speech = Speech::default();
    let mut awaited: Option<Order> = None;
    loop {
        tokio::select! {
            biased;
            _ = cut.changed() => return Ok(()),
            length = client.read_buf(&mut up) => {
                if length? == 0 {
                    return Ok(());
                }
                while let Some((bytes, call)) = speech.next(&mut up) {
                    state.wait_while_stalled().await;
                    let met = call.and_then(|call| state.met(call));
                    match met.map(|order| order.phase) {
                        Some(Phase::Unsent) => {
                            state.carry_out(met.unwrap());
                            return Ok(());
                        }
                        Some(Phase::Sent) => {
                            server.write_all(&bytes).await?;
                            state.carry_out(met.unwrap());
                            return Ok(());
                        }
                        Some(Phase::Answered) => awaited = met,
                        None => {}
                    }
                    server.write_all(&bytes).await?;
                }
            }
            length = server.read_buf(&mut down) => {
                if length? == 0 {
                    return Ok(());
                }
                state.wait_while_stalled().await;
                if let Some(order) = awaited {
                    if is_ready(&down) {
                        state.carry_out(order);
                        return Ok(());
                    }
                } else {
                    client.write_all(&down).await?;
                    down.clear();
                }
            }
        }
    }
}

/// Whether the server has said that it is ready for the next statement.
fn is_ready(mut bytes: &[u8]) -> bool {
    while let [kind, a, b, c, d, ..] = bytes {
        let length = 1 + u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if bytes.len() < length {
            return false;
        }
        if *kind == b'Z' {
            return true;
        }
        bytes = &bytes[length..];
    }
    false
}

/// What a client says, cut into parts that are answered as a whole.
#[derive(Default)]
struct Speech {
    has_begun: bool,
    statements: HashMap<Vec<u8>, Call>,
    /// How much of the buffer was looked at.
    seen: usize,
    call: Option<Call>,
}

impl Speech {
    /// Takes the next part; with what it calls, where it runs a statement.
    fn next(&mut self, buffer: &mut Vec<u8>) -> Option<(Vec<u8>, Option<Call>)> {
        if !self.has_begun {
            let length = u32::from_be_bytes(buffer.get(..4)?.try_into().unwrap()) as usize;
            if buffer.len() < length {
                return None;
            }
            self.has_begun = true;
            return Some((buffer.drain(..length).collect(), None));
        }
        loop {
            let head = buffer.get(self.seen..self.seen + 5)?;
            let length = 1 + u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
            let message = buffer.get(self.seen..self.seen + length)?;
            let (kind, mut words) = (message[0], message[5..].split(|byte| *byte == 0));
            let mut word = || words.next().unwrap_or_default();
            match kind {
                b'P' => {
                    let name = word().to_owned();
                    let call = Call::of(&String::from_utf8_lossy(word()));
                    self.statements.insert(name, call);
                }
                b'B' => {
                    word();
                    let call = self.statements.get(word()).copied();
                    self.call = Some(call.unwrap_or(Call::Other));
                }
                b'Q' => self.call = Some(Call::of(&String::from_utf8_lossy(word()))),
                _ => {}
            }
            self.seen += length;
            if matches!(kind, b'S' | b'Q' | b'H' | b'X' | b'p') {
                let bytes = buffer.drain(..self.seen).collect();
                self.seen = 0;
                return Some((bytes, self.call.take()));
            }
        }
    }
}
