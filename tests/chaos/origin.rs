//! Many sources behind one HTTP server, which keeps the log that a campaign is judged by. It runs on a thread of its
//! own: what it writes down must not wait for a busy test.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::clock;
use super::history::Request;

/// Longer than the sources are given.
const STALL: Duration = Duration::from_millis(2500);

/// What a request is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Page,
    Empty,
    /// 429 with seconds.
    Seconds,
    /// 503 with a date.
    Date,
    /// 500.
    Broken,
    /// Nothing.
    Reset,
    /// Half of a body.
    Truncated,
    /// Nothing for longer than anybody waits.
    Stalled,
}

struct Sources {
    rng: StdRng,
    log: Vec<Request>,
    /// The greatest id handed out, by source; the end of the source once it is frozen.
    tips: HashMap<String, i64>,
    is_frozen: bool,
    revised: HashSet<(String, i64)>,
    connections: u64,
}

/// It ends with the value.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    sources: Arc<Mutex<Sources>>,
    _stop: DropGuard,
}

impl Origin {
    pub(crate) fn start(seed: u64) -> Self {
        let sources = Arc::new(Mutex::new(Sources {
            rng: StdRng::seed_from_u64(seed),
            log: Vec::new(),
            tips: HashMap::new(),
            is_frozen: false,
            revised: HashSet::new(),
            connections: 0,
        }));
        let stop = CancellationToken::new();
        let (kept, stopped) = (Arc::clone(&sources), stop.clone());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(stopped.run_until_cancelled(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    let sources = Arc::clone(&kept);
                    // A client that goes away is the client's business.
                    tokio::spawn(async move { drop(serve(stream, &sources).await) });
                }
            }));
        });
        Self { address, sources, _stop: stop.drop_guard() }
    }

    /// How many requests there were.
    pub(crate) fn count(&self) -> u64 {
        self.sources.lock().unwrap().log.len() as u64
    }

    /// From now on every source answers well, and has no new events.
    pub(crate) fn freeze(&self) {
        self.sources.lock().unwrap().is_frozen = true;
    }

    pub(crate) fn tips(&self) -> HashMap<String, i64> {
        self.sources.lock().unwrap().tips.clone()
    }

    /// From now on these ids have other bodies.
    pub(crate) fn revise(&self, source: &str, ids: &[i64]) {
        let mut sources = self.sources.lock().unwrap();
        sources.revised.extend(ids.iter().map(|id| (source.to_owned(), *id)));
    }

    pub(crate) fn revised(&self, source: &str) -> Vec<i64> {
        let sources = self.sources.lock().unwrap();
        let of_it = sources.revised.iter().filter(|(name, _)| name == source);
        let mut ids: Vec<i64> = of_it.map(|(_, id)| *id).collect();
        ids.sort_unstable();
        ids
    }

    pub(crate) fn log(&self) -> Vec<Request> {
        self.sources.lock().unwrap().log.clone()
    }
}

/// The value that the events of a source have; the database can compute it, too.
fn value(source: &str, id: i64) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(format!("{source}:{id}")) {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

async fn serve(mut stream: TcpStream, sources: &Mutex<Sources>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.readable().await?;
    let at = clock::now();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let Some(mut request) = parse(&String::from_utf8_lossy(&head), at) else { return Ok(()) };
    let (place, mood, delay, body) = {
        let mut sources = sources.lock().unwrap();
        sources.connections += 1;
        request.connection = sources.connections;
        let (mood, delay) = sources.mood();
        let body = sources.page(&mut request, mood);
        sources.log.push(request.clone());
        (sources.log.len() - 1, mood, delay, body)
    };
    tokio::time::sleep(delay).await;
    let outcome = answer(&mut stream, mood, &body, &mut request).await;
    // When the answer was on its way. It may have arrived even if the other side was not there to the end.
    request.answered_at = if request.status == 0 { 0 } else { clock::now() };
    request.complete = outcome.is_ok() && mood != Mood::Truncated;
    sources.lock().unwrap().log[place] = request;
    outcome
}

impl Sources {
    fn mood(&mut self) -> (Mood, Duration) {
        let slow = self.rng.random_range(0..100) < 6;
        let delay = self.rng.random_range(if slow { 100..400 } else { 1..15 });
        let delay = Duration::from_millis(delay);
        if self.is_frozen {
            return (Mood::Page, delay);
        }
        match self.rng.random_range(0..1000) {
            0..30 => (Mood::Empty, delay),
            30..45 => (Mood::Seconds, delay),
            45..52 => (Mood::Date, delay),
            52..56 => (Mood::Broken, delay),
            56..60 => (Mood::Reset, delay),
            60..64 => (Mood::Truncated, delay),
            64..66 => (Mood::Stalled, STALL),
            _ => (Mood::Page, delay),
        }
    }

    /// The events of a page, and in the request what the log says of it.
    fn page(&mut self, request: &mut Request, mood: Mood) -> String {
        let has_events = matches!(mood, Mood::Page | Mood::Truncated | Mood::Stalled);
        let wanted =
            if has_events { self.rng.random_range(10..=100).min(request.limit) } else { 0 };
        let tip = self.tips.entry(request.source.clone()).or_default();
        let mut last = request.after_id + wanted;
        if self.is_frozen {
            last = last.min(*tip);
        }
        *tip = last.max(*tip);
        let first = request.after_id + 1;
        request.first_id = first;
        request.event_count = (last - request.after_id).max(0);
        let mut body = String::from("[");
        for id in first..=last {
            let is_revised = self.revised.contains(&(request.source.clone(), id));
            let value = if is_revised { "revised".to_owned() } else { value(&request.source, id) };
            let comma = if id == first { "" } else { "," };
            write!(body, r#"{comma}{{"id":{id},"k":"{value}"}}"#).unwrap();
        }
        body.push(']');
        body
    }
}

async fn answer(
    stream: &mut TcpStream,
    mood: Mood,
    body: &str,
    request: &mut Request,
) -> std::io::Result<()> {
    let (status, more) = match mood {
        Mood::Seconds => {
            request.retry_after_ms = Some(1000);
            (429, "retry-after: 1\r\n".to_owned())
        }
        Mood::Date => {
            let now = chrono::Utc::now();
            let date =
                |time: chrono::DateTime<chrono::Utc>| time.format("%a, %d %b %Y %H:%M:%S GMT");
            // Both are cut to seconds, so this is what is left in any case.
            request.retry_after_ms = Some(1000);
            let until = now + chrono::Duration::seconds(1);
            (503, format!("date: {}\r\nretry-after: {}\r\n", date(now), date(until)))
        }
        Mood::Broken => (500, String::new()),
        Mood::Reset => return Ok(()),
        _ => (200, "content-type: application/json\r\n".to_owned()),
    };
    let length = if status == 200 { body.len() } else { 0 };
    let head = format!(
        "HTTP/1.1 {status} S\r\nconnection: close\r\n{more}content-length: {length}\r\n\r\n"
    );
    request.status = status;
    stream.write_all(head.as_bytes()).await?;
    let sent = match mood {
        Mood::Truncated => length / 2,
        _ => length,
    };
    stream.write_all(&body.as_bytes()[..sent]).await?;
    stream.shutdown().await
}

fn parse(head: &str, at: i64) -> Option<Request> {
    let mut lines = head.lines();
    let target = lines.next()?.split(' ').nth(1)?;
    let url = url::Url::parse("http://origin").ok()?.join(target).ok()?;
    let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
    let life = lines.find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("x-life").then(|| value.parse().ok())?
    })?;
    Some(Request {
        at,
        life,
        source: url.path().trim_start_matches('/').to_owned(),
        after_id: query.get("after_id")?.parse().ok()?,
        limit: query.get("limit")?.parse().ok()?,
        ..Request::default()
    })
}
