//! HTTP sources that misbehave, next to one that does not: each gets the state, the reason and the way out that it
//! should, its neighbours go on, and nothing is lost or asked twice.

mod event;
mod outcome;
mod page;
mod policy;
mod refusal;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::FromRow;

use crate::support::database::Database;
use crate::support::http::{Asked, Reply, Server, page};
use crate::support::loading::{Given, Loading, http};
use crate::support::program::{Finished, Program};
use crate::support::wait_for;

/// Events of the healthy source: three pages.
const HEALTHY: i64 = 2500;

/// Longest text that may stand in `error`, `health_reason` and `reason`, in characters.
const TEXT_MAX: i32 = 1000;

/// A way to misbehave, under a path of its own.
struct Case {
    name: &'static str,
    reply: Box<dyn Fn(&Asked) -> Reply + Send + Sync>,
    /// What has to stand in the reason.
    reason: &'static str,
}

fn case(
    name: &'static str,
    reason: &'static str,
    reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
) -> Case {
    Case { name, reply: Box::new(reply), reason }
}

/// A server on which every case has a path, and a switch that makes it serve good events.
struct Hostile {
    server: Server,
    cured: Arc<AtomicBool>,
    /// Name and expected reason of each case.
    cases: Vec<(&'static str, &'static str)>,
}

impl Hostile {
    /// Once cured, every path serves the events 1..=`good_count`.
    async fn start(cases: Vec<Case>, good_count: i64) -> Self {
        let cured = Arc::new(AtomicBool::new(false));
        let names = cases.iter().map(|case| (case.name, case.reason)).collect();
        let is_cured = Arc::clone(&cured);
        let server = Server::start(move |asked| {
            if is_cured.load(Ordering::Relaxed) {
                return Reply::Json(page(asked, good_count));
            }
            let case = cases.iter().find(|case| asked.path == format!("/{}", case.name));
            case.map_or(Reply::Drop, |case| (case.reply)(asked))
        })
        .await;
        Self { server, cured, cases: names }
    }

    fn given(&self) -> Vec<Given> {
        self.cases
            .iter()
            .map(|(name, _)| http(name, &self.server.url_of(&format!("/{name}"))))
            .collect()
    }

    fn cure(&self) {
        self.cured.store(true, Ordering::Relaxed);
    }

    fn asked(&self, name: &str, after_id: i64) -> usize {
        self.server.asked(&format!("/{name}"), after_id)
    }
}

/// What `status` shows of a source.
#[derive(Clone, Debug, FromRow)]
struct Seen {
    state: String,
    reason: Option<String>,
    remedy: Option<String>,
    last_requested_id: i64,
    last_stored_id: i64,
    /// Seconds until it may be asked again.
    waits: Option<f64>,
    held_request_id: Option<i64>,
}

impl Seen {
    fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or_default()
    }
}

/// A row of the request log.
#[derive(Clone, Debug, FromRow)]
struct Logged {
    id: i64,
    after_id: i64,
    attempt: i32,
    status: String,
    event_count: Option<i32>,
    error: Option<String>,
    closed_by: Option<String>,
    /// Seconds from the failure to its retry.
    retry_in: Option<f64>,
}

/// A dead letter.
#[derive(Clone, Debug, FromRow)]
struct Letter {
    kind: String,
    reference: String,
    body: Vec<u8>,
    reason: String,
}

/// A database, a healthy source, hostile ones, and a loader that runs them all.
struct Scene {
    database: Database,
    program: Program,
    healthy: Server,
    given: Vec<Given>,
    loading: Loading,
}

impl Scene {
    async fn with(hostile: Vec<Given>) -> Self {
        let database = Database::migrated().await;
        let healthy = Server::with_events(HEALTHY).await;
        let mut given = hostile;
        given.push(http("healthy", &healthy.url()));
        let loading = Loading::start(&database, &given).await;
        Self { program: Program::new(&database, ""), database, healthy, given, loading }
    }

    /// Stops the loader and starts another one, as a new start of the program would.
    async fn restart(self) -> Self {
        self.loading.stop().await;
        let loading = Loading::start(&self.database, &self.given).await;
        Self { loading, ..self }
    }

    async fn command(&self, arguments: &[&str]) -> Finished {
        let finished = self.program.run(arguments).await;
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        finished
    }

    async fn seen(&self, name: &str) -> Seen {
        sqlx::query_as(
            "select state, reason, remedy, last_requested_id, last_stored_id, held_request_id,
                 extract(epoch from not_before - clock_timestamp())::float8 as waits
             from eventloader.source_status where source_name = $1",
        )
        .bind(name)
        .fetch_one(&self.database.pool)
        .await
        .unwrap()
    }

    /// Waits until the source is in this state.
    async fn settled(&self, name: &str, state: &str) -> Seen {
        wait_for(&format!("{name} to be {state}"), || async {
            Some(self.seen(name).await).filter(|seen| seen.state == state)
        })
        .await
    }

    /// Waits until every id up to `id` is stored or a dead letter.
    async fn stored_up_to(&self, name: &str, id: i64) -> Seen {
        wait_for(&format!("{name} to be stored up to {id}"), || async {
            Some(self.seen(name).await).filter(|seen| seen.last_stored_id >= id)
        })
        .await
    }

    async fn logged(&self, name: &str) -> Vec<Logged> {
        sqlx::query_as(
            "select id, after_id, attempt, status, event_count, error, closed_by,
                 extract(epoch from retry_at - updated_at)::float8 as retry_in
             from eventloader.event_request_log where source_name = $1 order by id",
        )
        .bind(name)
        .fetch_all(&self.database.pool)
        .await
        .unwrap()
    }

    async fn letters(&self, name: &str) -> Vec<Letter> {
        sqlx::query_as(
            "select kind, reference, body, reason from eventloader.dead_letter where origin = $1 order by id",
        )
        .bind(name)
        .fetch_all(&self.database.pool)
        .await
        .unwrap()
    }

    /// The ids of a source in the event log, in the order of their positions.
    async fn ids(&self, name: &str) -> Vec<i64> {
        sqlx::query_scalar(
            "select version from eventloader.events where stream = $1 order by position",
        )
        .bind(name)
        .fetch_all(&self.database.pool)
        .await
        .unwrap()
    }

    /// Checks what has to hold at every end: the healthy source has all its events, asked once each; no request was
    /// sent without a reservation of its own; and no text that people read is long or can forge a line.
    async fn finish(self, servers: &[&Server]) -> Database {
        self.stored_up_to("healthy", HEALTHY).await;
        assert_eq!(self.ids("healthy").await, (1..=HEALTHY).collect::<Vec<_>>());
        for after_id in [0, 1000, 2000] {
            assert_eq!(self.healthy.asked("/events", after_id), 1, "window after {after_id}");
        }
        let healthy = self.seen("healthy").await;
        assert_eq!((healthy.state.as_str(), healthy.reason), ("ok", None));
        assert!(self.letters("healthy").await.is_empty());
        self.loading.stop().await;

        let reserved: i64 = self
            .database
            .value("select last_value from eventloader.event_request_log_id_seq")
            .await;
        let asked: usize = servers.iter().map(|server| server.log().len()).sum();
        let asked = asked + self.healthy.log().len();
        assert!(asked <= usize::try_from(reserved).unwrap(), "{asked} asked, {reserved} reserved");
        for text in texts(&self.database).await {
            assert!(text.chars().count() <= TEXT_MAX as usize, "long text: {text}");
            assert!(!text.chars().any(char::is_control), "control character: {text:?}");
        }
        self.database
    }
}

/// Every text in the database that people read.
async fn texts(database: &Database) -> Vec<String> {
    database
        .column(
            "select error from eventloader.event_request_log where error is not null
             union all select health_reason from eventloader.source where health_reason is not null
             union all select reason from eventloader.dead_letter
             union all select reason from eventloader.source_status where reason is not null
             union all select last_error from eventloader.event_inbox where last_error is not null",
        )
        .await
}

/// A body, compressed.
fn gzip(body: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// 200 with a body in a coding.
fn encoded(encoding: &str, body: Vec<u8>) -> Reply {
    Reply::Status(200, vec![("content-encoding", encoding.to_owned())], body)
}
