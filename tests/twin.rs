//! The rules of the model and the functions in PostgreSQL are the same: random operations of three owners are given to
//! both, and their answers and rows are compared after every one.
//!
//! An hour stands for one unit of the model's time. It passes by moving every moment in the database into the past, so
//! a test of thousands of hours takes seconds; the seconds it takes are below the resolution of the comparison.

use std::collections::BTreeMap;
use std::time::Duration;

use eventloader::event::Event;
use eventloader::loader::cycle::{ClaimAnswer, Close, Denial, Deposit, Grant, Token};
use eventloader::loader::policy::{OnFailure, Verdict, WINDOW_ATTEMPTS_MAX};
use eventloader::store::inbox::{self, DepositRows};
use eventloader::store::request_log::{self, ClaimRequest};
use eventloader::store::source::{self, Registration, SeekTo};
use eventloader::store::{Actor, lease};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::Row;

use crate::model::ledger::{
    Claim, Claimed, Cursor, CycleEnd, Lease, Ledger, Owner, Rate, Request, Status, Time,
};
use crate::support::database::Database;

const SOURCE: &str = "twin";
const HOUR: Duration = Duration::from_hours(1);
const TTL: Time = 3;
const GRACE: Time = 2;
const RUNS: u64 = 16;
const STEPS: usize = 300;

fn hours(count: Time) -> Duration {
    HOUR * count.unsigned_abs()
}

/// Rounds to whole hours, past the seconds that the test itself takes.
#[expect(clippy::cast_possible_truncation, reason = "a test of a few hours")]
fn to_hours(seconds: f64) -> Time {
    (seconds / 3600.0).round() as Time
}

fn owner_name(owner: Owner) -> String {
    format!("owner {owner}")
}

/// What an owner remembers between two operations; any of it may be out of date.
#[derive(Clone, Debug)]
struct Memory {
    token: Token,
    grants: Vec<Grant>,
}

struct Twin {
    database: Database,
    ledger: Ledger,
    random: StdRng,
    memories: [Memory; 3],
    next_token: u128,
    /// What came with the last page that was stored and had one.
    state: Option<String>,
    on_failure: OnFailure,
    min_interval: Time,
    /// How often each answer was given, to know that the run was not idle.
    answers: BTreeMap<&'static str, usize>,
}

impl Twin {
    async fn new(seed: u64) -> Self {
        let database = Database::migrated().await;
        let registration = Registration {
            source_name: SOURCE.to_owned(),
            source_type: "memory".to_owned(),
            start_after: 0,
        };
        let foreign = source::register(&database.pool, &[registration]).await;
        assert_eq!(foreign.expect("the source is registered"), Vec::<String>::new());
        let memory = |token| Memory { token: Token::from_u128(token), grants: Vec::new() };
        Self {
            database,
            ledger: Ledger::default(),
            random: StdRng::seed_from_u64(seed),
            memories: [memory(1), memory(2), memory(3)],
            next_token: 4,
            state: None,
            on_failure: if seed.is_multiple_of(2) { OnFailure::Hold } else { OnFailure::Retry },
            min_interval: if seed.is_multiple_of(3) { 9 } else { 1 },
            answers: BTreeMap::new(),
        }
    }

    fn note(&mut self, answer: &'static str) {
        *self.answers.entry(answer).or_default() += 1;
    }

    async fn step(&mut self) -> String {
        if self.ledger.is_paused && self.random.random_bool(0.2) {
            return self.pause_or_resume().await;
        }
        match self.random.random_range(0..100) {
            0..40 => self.claim().await,
            40..47 => self.renew().await,
            47..59 => self.deposit().await,
            59..64 => self.close().await,
            64..72 => self.retry_or_skip().await,
            72 => self.seek().await,
            73 => self.pause_or_resume().await,
            74..79 => self.move_inbox().await,
            _ => self.tick().await,
        }
    }

    async fn claim(&mut self) -> String {
        let owner: Owner = self.random.random_range(0..3);
        let token = self.memories[usize::from(owner)].token;
        let request = ClaimRequest {
            source_name: SOURCE,
            owner: &owner_name(owner),
            token,
            limit: 2,
            lease_ttl: hours(TTL),
            orphan_grace: hours(GRACE),
            min_interval: hours(self.min_interval),
            on_failure: self.on_failure,
        };
        let pool = &self.database.pool;
        let real = request_log::claim_with_state(pool, &request).await.expect("a claim");
        // What the product makes a second is an hour here: it must not pass by itself.
        self.database
            .execute(
                "update eventloader.event_request_log set retry_at = clock_timestamp() + '1 hour'
                 where status = 'orphaned' and retry_at between clock_timestamp() and clock_timestamp() + '1 minute'",
            )
            .await;
        let mut model = self.ledger.claim(&Claim {
            owner,
            token,
            lease_ttl: TTL,
            min_interval: self.min_interval,
            orphan_grace: GRACE,
            orphan_retry_in: (self.on_failure == OnFailure::Retry).then_some(1),
            max_attempts: WINDOW_ATTEMPTS_MAX,
        });
        if let Claimed::Granted(grant) = &mut model {
            grant.state.clone_from(&self.state);
        }
        match (&real, &model) {
            (ClaimAnswer::Granted(real), Claimed::Granted(model)) => assert_eq!(real, model),
            (
                ClaimAnswer::Denied { reason: real, wait: real_wait },
                Claimed::Denied { reason: model, wait: model_wait },
            ) => {
                assert_eq!(real, model);
                let real_wait = real_wait.map(|wait| to_hours(wait.as_secs_f64().max(3600.0)));
                assert_eq!(real_wait, model_wait.map(|wait| wait.max(1)), "{real:?}");
            }
            _ => panic!("{real:?} in PostgreSQL, {model:?} in the model"),
        }
        self.claimed(owner, &model);
        format!("claim by {owner} with {}: {model:?}", token.as_u128())
    }

    fn claimed(&mut self, owner: Owner, model: &Claimed) {
        let memory = &mut self.memories[usize::from(owner)];
        match model {
            Claimed::Granted(grant) => {
                let is_resumed = grant.epoch != 1
                    && memory.grants.iter().any(|held| held.request_id == grant.request_id);
                memory.grants.push(grant.clone());
                // A quarter of the replies is lost: the token is used again.
                if self.random.random_range(0..4) > 0 {
                    memory.token = Token::from_u128(self.next_token);
                    self.next_token += 1;
                }
                self.note(if is_resumed { "resumed" } else { "granted" });
            }
            Claimed::Denied { reason, .. } => self.note(match reason {
                Denial::Busy => "busy",
                Denial::Throttled => "throttled",
                Denial::Held => "held",
                Denial::Paused => "paused",
                Denial::Missing => "missing",
            }),
        }
    }

    /// Any grant that anybody ever had, the last ones more often.
    fn any_grant(&mut self) -> Option<(Owner, Grant)> {
        let owner: Owner = self.random.random_range(0..3);
        let grants = &self.memories[usize::from(owner)].grants;
        let back =
            [0, 0, 0, 1, 2][self.random.random_range(0..5)].min(grants.len().checked_sub(1)?);
        Some((owner, grants[grants.len() - 1 - back].clone()))
    }

    async fn renew(&mut self) -> String {
        let Some((owner, grant)) = self.any_grant() else { return String::new() };
        let name = owner_name(owner);
        let real = lease::renew(&self.database.pool, SOURCE, &name, grant.epoch, hours(TTL)).await;
        let model = self.ledger.renew(owner, grant.epoch, TTL);
        assert_eq!(real.expect("a renewal"), model);
        self.note(if model { "renewed" } else { "lost" });
        format!("renewal by {owner} under {}: {model}", grant.epoch)
    }

    fn some_time(&mut self) -> Option<Time> {
        self.random.random_bool(0.7).then(|| self.random.random_range(1..4))
    }

    fn end<'a>(&mut self, name: &'a str, owner: Owner) -> (request_log::CycleEnd<'a>, CycleEnd) {
        let known_for = self.some_time();
        let real = request_log::CycleEnd {
            source_name: SOURCE,
            owner: name,
            request_known_for: known_for.map(hours),
        };
        (real, CycleEnd { owner, request_known_for: known_for, not_before_in: None })
    }

    async fn deposit(&mut self) -> String {
        let Some((owner, grant)) = self.any_grant() else { return String::new() };
        let name = owner_name(owner);
        let (real_end, end) = self.end(&name, owner);
        let page_length = self.random.random_range(0..3);
        let ids: Vec<i64> = (1..=page_length).map(|n| grant.after_id + n).collect();
        let events: Vec<Event> = ids.iter().copied().map(event).collect();
        let max_id = ids.last().copied();
        let pause = max_id.is_none().then_some(2);
        let deposit = Deposit {
            max_id,
            empty_streak: u32::from(max_id.is_none()) * (grant.empty_streak + 1),
            pause: pause.map(hours),
        };
        let state = self
            .random
            .random_bool(0.5)
            .then(|| format!("{{ \"at\": {}.0 }}", self.random.random::<u16>()));
        let rows =
            DepositRows { events: &events, bad_events: &[], state: state.as_deref(), gaps: &[] };
        let real = inbox::deposit(&self.database.pool, real_end, &grant, &deposit, rows).await;
        let before = self.ledger.request(grant.request_id).map(|request| request.status);
        let end = CycleEnd { not_before_in: pause, ..end };
        if matches!(before, Some(Status::Reserved | Status::Orphaned)) && state.is_some() {
            self.state = state;
        }
        let model = self.ledger.deposit(&end, &grant, &deposit, &ids);
        assert_eq!(real.expect("a deposit").stored, model);
        self.note(match before {
            Some(Status::Reserved) => "deposited",
            Some(Status::Orphaned) => "deposited late",
            Some(Status::Retried | Status::Skipped | Status::Failed) => "refused",
            Some(Status::InboxOnly | Status::Succeeded) => "already",
            None => "gone",
        });
        format!("deposit of {ids:?} by {owner} for {grant:?}: {model:?}, was {before:?}")
    }

    async fn close(&mut self) -> String {
        let Some((owner, grant)) = self.any_grant() else { return String::new() };
        let name = owner_name(owner);
        let (real_end, end) = self.end(&name, owner);
        let (retry_in, pause) = (self.some_time(), self.some_time());
        let fails = self.random.random_bool(0.5);
        let close = Close {
            verdict: if fails { Verdict::Fail } else { Verdict::Release },
            retry_in: retry_in.map(hours),
            pause: pause.map(hours),
            failure_streak: grant.failure_streak + 1,
            health: None,
        };
        let real =
            request_log::close(&self.database.pool, real_end, &grant, &close, "why", None).await;
        real.expect("a close");
        let end = CycleEnd { not_before_in: pause, ..end };
        self.ledger.close(&end, &grant, &close, retry_in);
        self.note(if fails { "failed" } else { "released" });
        format!("{close:?} by {owner} for {grant:?}")
    }

    async fn retry_or_skip(&mut self) -> String {
        let held: Vec<Request> =
            self.ledger.requests.iter().filter(|r| r.status.is_held()).copied().collect();
        let Some(request) = held.first() else { return String::new() };
        let actor = Actor("tester".to_owned());
        let mut transaction = self.database.pool.begin().await.expect("a transaction");
        let row = request_log::lock(&mut transaction, request.id).await.expect("a lock");
        let row = row.expect("the request exists");
        let retries = self.random.random_bool(0.7);
        if retries {
            request_log::retry(&mut transaction, &row, &actor).await.expect("a retry");
            self.ledger.retry(request.id);
        } else {
            let up_to = request.after_id + 2;
            request_log::skip(&mut transaction, &row, up_to, &actor).await.expect("a skip");
            self.ledger.skip(request.id, up_to);
        }
        transaction.commit().await.expect("a commit");
        self.note(if retries { "retried" } else { "skipped" });
        format!("retry {retries} or skip of {}", request.id)
    }

    async fn seek(&mut self) -> String {
        if !self.ledger.may_seek() {
            return String::new();
        }
        let to = self.ledger.cursor.last_requested_id + self.random.random_range(-1..2);
        let mut transaction = self.database.pool.begin().await.expect("a transaction");
        source::lock_cursor(&mut transaction, SOURCE).await.expect("a lock");
        let actor = Actor("tester".to_owned());
        source::seek(&mut transaction, SOURCE, SeekTo::Id(to), &actor).await.expect("a seek");
        transaction.commit().await.expect("a commit");
        self.ledger.seek(to);
        self.note("sought");
        format!("seek to {to}")
    }

    async fn pause_or_resume(&mut self) -> String {
        let actor = Actor("tester".to_owned());
        let pool = &self.database.pool;
        self.ledger.is_paused = !self.ledger.is_paused;
        if self.ledger.is_paused {
            source::pause(pool, SOURCE, &actor, None).await.expect("a pause");
        } else {
            source::resume(pool, SOURCE, &actor).await.expect("an end of the pause");
            self.ledger.rate.not_before = None;
        }
        format!("paused: {}", self.ledger.is_paused)
    }

    async fn move_inbox(&mut self) -> String {
        inbox::move_batch(&self.database.pool, SOURCE, 1000).await.expect("a move");
        self.ledger.move_inbox();
        "move".to_owned()
    }

    async fn tick(&mut self) -> String {
        let by = self.random.random_range(1..5);
        sqlx::query(
            "with hours as (select make_interval(hours => $1) as passed), lease as (
                 update eventloader.source_lease set expires_at = expires_at - passed from hours
             ), rate as (
                 update eventloader.source_rate_limit
                 set last_request_at = last_request_at - passed, not_before = not_before - passed
                 from hours
             )
             update eventloader.event_request_log set retry_at = retry_at - passed from hours",
        )
        .bind(by)
        .execute(&self.database.pool)
        .await
        .expect("time passes");
        self.ledger.tick(by);
        format!("{by} hours pass")
    }

    /// Reads all rows back as the model would hold them.
    async fn real_ledger(&self) -> Ledger {
        let row = sqlx::query(
            "select l.owner, l.epoch, c.last_requested_id, c.last_stored_id, c.next_attempt, r.empty_streak,
                 r.failure_streak, s.paused_at is not null as is_paused,
                 extract(epoch from l.expires_at - clock_timestamp())::float8 as expires_in,
                 extract(epoch from r.last_request_at - clock_timestamp())::float8 as last_request_in,
                 extract(epoch from r.not_before - clock_timestamp())::float8 as not_before_in
             from eventloader.source s
             join eventloader.source_lease l using (source_name)
             join eventloader.source_cursor c using (source_name)
             join eventloader.source_rate_limit r using (source_name)",
        )
        .fetch_one(&self.database.pool)
        .await
        .expect("the source's rows");
        let time = |column| row.get::<Option<f64>, _>(column).map(to_hours);
        let owner = row.get::<Option<String>, _>("owner").map(|name| owner_number(&name));
        let inbox =
            sqlx::query_as("select event_id, request_id from eventloader.event_inbox order by 1");
        Ledger {
            lease: Lease {
                owner,
                epoch: row.get("epoch"),
                expires_at: time("expires_in").unwrap_or_default(),
            },
            rate: Rate {
                last_request_at: time("last_request_in"),
                not_before: time("not_before_in"),
                empty_streak: row.get::<i32, _>("empty_streak").cast_unsigned(),
                failure_streak: row.get::<i32, _>("failure_streak").cast_unsigned(),
            },
            cursor: Cursor {
                last_requested_id: row.get("last_requested_id"),
                last_stored_id: row.get("last_stored_id"),
                next_attempt: row.get::<i32, _>("next_attempt").cast_unsigned(),
            },
            is_paused: row.get("is_paused"),
            requests: self.real_requests().await,
            next_request_id: self.ledger.next_request_id,
            inbox: inbox.fetch_all(&self.database.pool).await.expect("the inbox"),
            events: self
                .database
                .column("select version from eventloader.events order by position")
                .await,
        }
    }

    async fn real_requests(&self) -> Vec<Request> {
        sqlx::query(
            "select *, extract(epoch from retry_at - clock_timestamp())::float8 as retry_in
             from eventloader.event_request_log order by id",
        )
        .fetch_all(&self.database.pool)
        .await
        .expect("the request log")
        .into_iter()
        .map(|row| Request {
            id: row.get("id"),
            after_id: row.get("after_id"),
            attempt: row.get::<i32, _>("attempt").cast_unsigned(),
            status: status(row.get("status")),
            token: row.get("token"),
            epoch: row.get("epoch"),
            owner: owner_number(row.get("owner")),
            max_id: row.get("max_id"),
            retry_at: row.get::<Option<f64>, _>("retry_in").map(to_hours),
        })
        .collect()
    }
}

fn owner_number(name: &str) -> Owner {
    name.trim_start_matches("owner ").parse().expect("an owner of this test")
}

fn status(name: &str) -> Status {
    match name {
        "reserved" => Status::Reserved,
        "inbox_only" => Status::InboxOnly,
        "succeeded" => Status::Succeeded,
        "failed" => Status::Failed,
        "orphaned" => Status::Orphaned,
        "retried" => Status::Retried,
        "skipped" => Status::Skipped,
        _ => panic!("{name} is no status"),
    }
}

fn event(id: i64) -> Event {
    Event {
        id,
        event_type: None,
        payload: eventloader::event::JsonText::parse("{}").expect("JSON"),
        occurred_at: None,
        message_id: None,
        metadata: None,
    }
}

#[tokio::test]
async fn the_model_and_postgresql_answer_alike_and_keep_the_same_rows() {
    let mut answers: BTreeMap<&'static str, usize> = BTreeMap::new();
    for seed in 0..RUNS {
        let mut twin = Twin::new(seed).await;
        let mut history = Vec::new();
        for step in 0..STEPS {
            history.push(twin.step().await);
            let real = twin.real_ledger().await;
            assert_eq!(
                real,
                twin.ledger,
                "seed {seed}, step {step}; PostgreSQL left, model right; the last operations:\n{}",
                history[history.len().saturating_sub(12)..].join("\n")
            );
        }
        for (answer, count) in twin.answers {
            *answers.entry(answer).or_default() += count;
        }
    }
    println!("{} operations: {answers:?}", RUNS * STEPS as u64);
    for answer in [
        "granted",
        "resumed",
        "busy",
        "throttled",
        "held",
        "paused",
        "renewed",
        "lost",
        "deposited",
        "deposited late",
        "refused",
        "already",
        "gone",
        "failed",
        "released",
        "retried",
        "skipped",
        "sought",
    ] {
        let count = answers.get(answer).copied().unwrap_or_default();
        assert!(count >= 10, "{answer} came {count} times only");
    }
}
