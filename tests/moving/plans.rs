//! What the hot statements read is in proportion to their batch: on small tables, on tables of a million rows without
//! statistics, with good ones, and with dead rows that a held snapshot keeps. All of it in one session, as in the program:
//! the plans that it keeps from when its tables were small are still there when they are not.

use std::collections::BTreeMap;
use std::future::Future;

use eventloader::event::JsonText;
use eventloader::mapping::message::Decoded;
use eventloader::postgres::pool;
use eventloader::storage::{EventStorage, OtherDatabase};
use eventloader::store::event_log;
use eventloader::store::inbox::{self, MoveOutcome};
use eventloader::store::message::{self, Deposited, MessageRows, NewMessage};
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::support::database::Database;
use crate::support::inbox::event;

const BATCH: i64 = 1000;
const ROWS: i64 = 1_000_000;
/// Most rows of a table, those of its indexes' entries apart, that a statement may read for each row of its batch.
const ROWS_EACH: i64 = 8;
/// Most pages likewise; a look-up in an index of a million rows is three or four.
const PAGES_EACH: i64 = 30;
/// The plan of a prepared statement is made anew for each of its first five executions, and may stay after that.
const UNTIL_PLANS_STAY: usize = 7;

/// What was read of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reads {
    /// One after another or by an index.
    rows: i64,
    /// Of the table and its indexes.
    pages: i64,
}

/// A database that one session works on, so that its counters are complete when it asks for them.
struct Meter {
    database: Database,
    other: OtherDatabase,
    /// Versions so far of the queue source.
    message_count: i64,
}

impl Meter {
    async fn new() -> Self {
        let database = Database::migrated().await;
        let database = Database { pool: pool::lazy(database.options.clone(), 1), ..database };
        let other = Database::migrated().await;
        for source_name in ["s", "q"] {
            database.register(source_name, 0).await;
        }
        // Whoever comes by would be counted too, and gather statistics.
        for table in ["event_inbox", "events", "consumed_message", "event_request_log"] {
            let off = format!("alter table eventloader.{table} set (autovacuum_enabled = false)");
            database.run_sql(off).await;
        }
        let other = OtherDatabase { inbox: database.pool.clone(), events: other.pool };
        Self { database, other, message_count: 0 }
    }

    /// What was ever read of each table.
    async fn counters(&self) -> BTreeMap<String, Reads> {
        self.database.execute("select pg_stat_force_next_flush()").await;
        let rows: Vec<(String, i64, i64)> = sqlx::query_as(
            "select t.relname::text, t.seq_tup_read + coalesce(t.idx_tup_fetch, 0),
                 io.heap_blks_read + io.heap_blks_hit + coalesce(io.idx_blks_read + io.idx_blks_hit, 0)
             from pg_stat_all_tables t join pg_statio_all_tables io using (relid)
             where t.schemaname = 'eventloader'",
        )
        .fetch_all(&self.database.pool)
        .await
        .unwrap();
        rows.into_iter().map(|(table, rows, pages)| (table, Reads { rows, pages })).collect()
    }

    /// What `work` reads of each table.
    async fn reads<T>(&self, work: impl Future<Output = T>) -> (T, BTreeMap<String, Reads>) {
        let before = self.counters().await;
        let answer = work.await;
        let mut reads = self.counters().await;
        for (table, reads) in &mut reads {
            let before = before.get(table).copied().unwrap_or_default();
            reads.rows -= before.rows;
            reads.pages -= before.pages;
        }
        (answer, reads)
    }

    /// Checks that `work` reads no more than a batch lets it.
    async fn check<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        let (answer, reads) = self.reads(work).await;
        for (table, reads) in reads {
            let Reads { rows, pages } = reads;
            assert!(rows <= ROWS_EACH * BATCH, "{what} reads {rows} rows of {table}");
            assert!(pages <= PAGES_EACH * BATCH, "{what} reads {pages} pages of {table}");
        }
        answer
    }

    /// One of each hot statement, in the order of an event's way.
    async fn check_all(&mut self, phase: &str) {
        self.check_messages(phase).await;
        let pool = &self.database.pool;
        let last_id: i64 = self
            .database
            .value(
                "select last_requested_id from eventloader.source_cursor where source_name = 's'",
            )
            .await;
        let events: Vec<_> = (last_id + 1..=last_id + 2 * BATCH).map(event).collect();
        for page in events.chunks(1000) {
            self.check(&format!("{phase}: claim and deposit"), self.database.deposit("s", page))
                .await;
        }
        let moved = self.check(&format!("{phase}: move"), inbox::move_batch(pool, "s", 1000)).await;
        assert_eq!(row_count(moved.unwrap()), 1000, "{phase}");
        let messages = inbox::move_batch(pool, "q", 1000);
        let moved = self.check(&format!("{phase}: move messages"), messages).await;
        assert_eq!(row_count(moved.unwrap()), 1000, "{phase}");
        let elsewhere = self.other.move_batch("s", 1000);
        let moved = self.check(&format!("{phase}: move elsewhere"), elsewhere).await;
        assert_eq!(row_count(moved.unwrap()), 1000, "{phase}");
        self.check(&format!("{phase}: look"), inbox::movable_sources(pool)).await.unwrap();
        let watermark = event_log::watermark(pool);
        let up_to = self.check(&format!("{phase}: watermark"), watermark).await.unwrap();
        let heads = event_log::read_heads(pool, up_to / 2, up_to, BATCH);
        let heads = self.check(&format!("{phase}: read the log"), heads).await.unwrap();
        assert!(!heads.is_empty());
    }

    /// New messages, and then the same again, as after a lost acknowledgement.
    async fn check_messages(&mut self, phase: &str) {
        let from = self.message_count + 1;
        self.message_count += BATCH;
        let messages: Vec<_> = (from..=self.message_count).map(new_message).collect();
        let rows = MessageRows {
            source_name: "q",
            stream: "q",
            messages: &messages,
            refused: &[],
            gaps: &[],
            max_version: Some(self.message_count),
        };
        for (what, stored) in [("messages", 1000), ("the same messages", 0)] {
            let deposited = message::deposit(&self.database.pool, &rows);
            let deposited = self.check(&format!("{phase}: {what}"), deposited).await.unwrap();
            let Deposited::Stored { stored_count, duplicate_count, .. } = deposited else {
                panic!("{phase}: {what}: {deposited:?}")
            };
            assert_eq!((stored_count, duplicate_count), (stored, 1000 - stored), "{phase}: {what}");
        }
    }
}

fn row_count(outcome: MoveOutcome) -> u32 {
    match outcome {
        MoveOutcome::Moved(moved) => moved.row_count(),
        other => panic!("nothing was moved: {other:?}"),
    }
}

fn new_message(version: i64) -> NewMessage {
    let decoded = Decoded {
        event_type: "q".to_owned(),
        payload: JsonText::parse(format!("{{\"n\":{version}}}")).unwrap(),
        message_id: Some(Uuid::new_v4()),
        occurred_at: None,
        metadata: None,
    };
    NewMessage { version: Some(version), decoded, body_hash: [7; 16] }
}

/// A backlog of a million rows in the inbox, and a log of a million events of the same sources.
async fn fill(database: &Database) {
    for statement in [
        "insert into eventloader.event_inbox (source_name, event_id, event_type, payload)
         select 's', g, 's', '{\"a\": 1}'
         from eventloader.source_cursor c, generate_series(c.last_requested_id + 1, $1) g
         where c.source_name = 's'",
        "insert into eventloader.event_request_log
             (source_name, after_id, max_id, limit_count, attempt, status, token, epoch, owner)
         select 's', g, g + 1000, 1000, 1, 'inbox_only', gen_random_uuid(), 1, 'filler'
         from eventloader.source_cursor c, generate_series(c.last_requested_id, $1 - 1000, 1000) g
         where c.source_name = 's'",
        "update eventloader.source_cursor set last_requested_id = $1 where source_name = 's'",
        "insert into eventloader.events (stream, version, event_type, payload, message_id)
         select (array['s', 'q'])[1 + g % 2], -g, 's', '{\"a\": 1}', gen_random_uuid()
         from generate_series(1, $1) g",
        "insert into eventloader.consumed_message (consumer, message_id, body_hash)
         select 'q', gen_random_uuid(), '\\x00' from generate_series(1, $1 / 4) g",
    ] {
        sqlx::query(statement).bind(ROWS).execute(&database.pool).await.unwrap();
    }
}

#[tokio::test]
async fn statements_read_in_proportion_to_their_batch() {
    let mut meter = Meter::new().await;
    for _ in 0..UNTIL_PLANS_STAY {
        meter.check_all("small tables").await;
    }
    fill(&meter.database).await;
    for _ in 0..2 {
        meter.check_all("a million rows, plans of small tables").await;
    }
    meter.database.execute("discard plans").await;
    for _ in 0..UNTIL_PLANS_STAY {
        meter.check_all("a million rows, no statistics").await;
    }
    meter.database.execute("analyze").await;
    for _ in 0..UNTIL_PLANS_STAY {
        meter.check_all("a million rows").await;
    }

    let mut holder = PgConnection::connect_with(&meter.database.options).await.unwrap();
    holder.execute("begin isolation level repeatable read").await.unwrap();
    holder.execute("select count(*) from eventloader.source").await.unwrap();
    for statement in [
        "delete from eventloader.event_inbox where source_name = 's' and event_id <= 900000",
        "update eventloader.source_cursor set last_stored_id = 900000 where source_name = 's'",
        // What is stored already under the next ids: half of it is the same, half differs.
        "insert into eventloader.events (stream, version, event_type, payload)
         select 's', 900000 + g, 's', jsonb_build_object('a', 1 + g % 2) from generate_series(1, 1000) g",
    ] {
        meter.database.execute(statement).await;
    }
    for _ in 0..2 {
        meter.check_all("dead rows").await;
    }
    let conflict_count: i64 = meter
        .database
        .value("select count(*) from eventloader.dead_letter where kind = 'conflict'")
        .await;
    assert_eq!(conflict_count, 500);
    meter.database.execute("vacuum analyze eventloader.event_inbox, eventloader.events").await;
    meter.check_all("dead rows, with statistics").await;

    // That these numbers tell: without its lower bound the scan walks over what is dead.
    let mut pages = Vec::new();
    for scan in [
        "select eventloader.lock_inbox_batch('s', (select last_stored_id from eventloader.source_cursor
             where source_name = 's'), 1000)",
        "select eventloader.lock_inbox_batch('s', 0, 1000)",
    ] {
        let ((), reads) = meter.reads(meter.database.execute(scan)).await;
        pages.push(reads["event_inbox"].pages);
    }
    assert!(pages[0] < 5 * BATCH && pages[1] > 2 * pages[0], "bounded and unbounded: {pages:?}");
    holder.execute("rollback").await.unwrap();
}
