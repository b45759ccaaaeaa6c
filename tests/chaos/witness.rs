//! What the database itself writes down of every change of leases, reservations and cursors, in the transaction of the
//! change, and a reader that looks at the log while it grows.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Executor, PgPool};

use super::history::{Cursor, History, Lease, Life, Micros, Reservation, Stored, Watch};
use super::origin::Origin;

/// The rows of a history are in the order of their numbers: changes of one source are made under its lease's lock.
const TRIGGERS: &str = "
create schema chaos;
create table chaos.reservation (
    seq bigserial primary key, at timestamptz not null default clock_timestamp(), source_name text, id bigint,
    after_id bigint, owner text, epoch bigint, was text, status text, lease_epoch bigint);
create table chaos.lease (
    seq bigserial primary key, at timestamptz not null default clock_timestamp(), source_name text, owner text,
    epoch bigint, expires_at timestamptz);
create table chaos.cursor (
    seq bigserial primary key, at timestamptz not null default clock_timestamp(), source_name text,
    requested bigint, stored bigint);
create function chaos.note_reservation() returns trigger language plpgsql as $$
declare
    r eventloader.event_request_log := coalesce(new, old);
begin
    if tg_op = 'UPDATE' and new.status = old.status and new.epoch = old.epoch then
        return null;
    end if;
    insert into chaos.reservation (source_name, id, after_id, owner, epoch, was, status, lease_epoch)
    select r.source_name, r.id, r.after_id, r.owner, r.epoch,
        case when tg_op <> 'INSERT' then old.status end, case when tg_op <> 'DELETE' then new.status end,
        (select l.epoch from eventloader.source_lease l where l.source_name = r.source_name);
    return null;
end $$;
create function chaos.note_lease() returns trigger language plpgsql as $$
begin
    insert into chaos.lease (source_name, owner, epoch, expires_at)
    values (new.source_name, new.owner, new.epoch, new.expires_at);
    return null;
end $$;
create function chaos.note_cursor() returns trigger language plpgsql as $$
begin
    insert into chaos.cursor (source_name, requested, stored)
    values (new.source_name, new.last_requested_id, new.last_stored_id);
    return null;
end $$;
create trigger note_reservation after insert or update or delete on eventloader.event_request_log
    for each row execute function chaos.note_reservation();
create trigger note_lease after update on eventloader.source_lease
    for each row execute function chaos.note_lease();
create trigger note_cursor after update of last_requested_id, last_stored_id on eventloader.source_cursor
    for each row when (new.source_name <> 'queue') execute function chaos.note_cursor();
";

/// Writes to the database that it changes.
pub(crate) async fn install(pool: &PgPool) {
    pool.execute(TRIGGERS).await.unwrap();
}

/// Looks, again and again, until the task is dropped. What the database does not answer, it does not see.
pub(crate) struct Watcher {
    pool: PgPool,
    pub(crate) seen: Watch,
    position: i64,
    shown: i64,
}

impl Watcher {
    pub(crate) fn new(options: &PgConnectOptions) -> Self {
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(2))
            .connect_lazy_with(options.clone());
        Self { pool, seen: Watch::default(), position: 0, shown: 0 }
    }

    /// One look; `pids` are the instances.
    pub(crate) async fn look(&mut self, pids: &[u32]) {
        if self.read_on().await.is_ok() {
            self.seen.look_count += 1;
        }
        for pid in pids {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let memory = status.lines().find_map(|line| {
                line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok()
            });
            let files = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
            self.seen.memory_max_kib = self.seen.memory_max_kib.max(memory.unwrap_or(0));
            self.seen.files_max = self.seen.files_max.max(i64::try_from(files).unwrap());
        }
    }

    /// As a reader does: the watermark first, the rows in a statement after it.
    async fn read_on(&mut self) -> sqlx::Result<()> {
        let watermark: i64 =
            sqlx::query_scalar("select eventloader.log_watermark()").fetch_one(&self.pool).await?;
        let new: i64 = sqlx::query_scalar(
            "select count(*) from eventloader.events where position > $1 and position <= $2",
        )
        .bind(self.position)
        .bind(watermark)
        .fetch_one(&self.pool)
        .await?;
        self.shown += new;
        self.position = self.position.max(watermark);
        let passed: i64 = sqlx::query_scalar(
            "select count(*) from eventloader.event_inbox i join eventloader.source_cursor c using (source_name)
             where i.event_id <= c.last_stored_id and i.source_name <> 'queue'",
        )
        .fetch_one(&self.pool)
        .await?;
        self.seen.passed_rows += passed;
        let connections: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where application_name = 'eventloader'",
        )
        .fetch_one(&self.pool)
        .await?;
        self.seen.connections_max = self.seen.connections_max.max(connections);
        Ok(())
    }

    /// Reads everything once more, up to where it had come.
    pub(crate) async fn end(mut self) -> Watch {
        let count: i64 =
            sqlx::query_scalar("select count(*) from eventloader.events where position <= $1")
                .bind(self.position)
                .fetch_one(&self.pool)
                .await
                .unwrap();
        self.seen.appeared_below = count - self.shown;
        self.seen
    }
}

/// Who an owner was: its name holds the number of its process.
struct Owners<'a>(HashMap<u32, Vec<&'a Life>>);

impl<'a> Owners<'a> {
    fn of(lives: &'a [Life]) -> Self {
        let mut by_pid: HashMap<u32, Vec<&Life>> = HashMap::new();
        for life in lives {
            by_pid.entry(life.pid).or_default().push(life);
        }
        Self(by_pid)
    }

    /// Numbers of processes come again: the last that began before.
    fn life(&self, owner: &str, at: Micros) -> u32 {
        let pid = owner.split(':').nth(1).and_then(|pid| pid.parse().ok()).unwrap_or(0);
        let lives = self.0.get(&pid).into_iter().flatten();
        let began = lives.filter(|life| life.began <= at);
        began.max_by_key(|life| life.began).map_or(0, |life| life.life)
    }
}

type ReservationRow = (Micros, String, i64, i64, String, i64, Option<String>, Option<String>, i64);

type LeaseRow = (Micros, String, Option<String>, i64, Option<Micros>);

/// Reads what the triggers wrote into the history, which has the lives already.
pub(crate) async fn collect(pool: &PgPool, history: &mut History) {
    let micros = |column: &str| format!("(extract(epoch from {column}) * 1000000)::bigint");
    let sql = format!(
        "select {}, source_name, id, after_id, owner, epoch, was, status, lease_epoch from chaos.reservation order by seq",
        micros("at")
    );
    let rows: Vec<ReservationRow> =
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(pool).await.unwrap();
    let owners = Owners::of(&history.lives);
    let change =
        |(at, source, id, after_id, owner, epoch, was, status, lease_epoch): ReservationRow| {
            let life = owners.life(&owner, at);
            Reservation { at, source, id, after_id, life, epoch, was, status, lease_epoch }
        };
    history.reservations = rows.into_iter().map(change).collect();
    let sql = format!(
        "select {}, source_name, owner, epoch, {} from chaos.lease order by seq",
        micros("at"),
        micros("expires_at")
    );
    let rows: Vec<LeaseRow> =
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(pool).await.unwrap();
    let lease =
        |(at, source, owner, epoch, expires_at)| Lease { at, source, owner, epoch, expires_at };
    history.leases = rows.into_iter().map(lease).collect();
    let sql = format!(
        "select {}, source_name, requested, stored from chaos.cursor order by seq",
        micros("at")
    );
    let rows: Vec<(Micros, String, i64, i64)> =
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(pool).await.unwrap();
    let cursor = |(at, source, requested, stored)| Cursor { at, source, requested, stored };
    history.cursors = rows.into_iter().map(cursor).collect();
}

const STORED: &str = "
with wrong as (
    select stream, count(*) as wrong_count from eventloader.events
    where payload is distinct from jsonb_build_object('id', version,
        'k', encode(sha256(convert_to(stream || ':' || version, 'UTF8')), 'hex'))
    group by stream
), ordered as (
    -- From the end: a frame that only grows costs nothing, one that shrinks is counted anew for each of ten million rows.
    select stream, version, position, min(position) over (partition by stream order by version desc
        rows between unbounded preceding and 1 preceding) as later from eventloader.events
), inverted as (
    select stream, array_agg(version order by version) as ids from ordered where later < position group by stream
)
select c.source_name, c.last_requested_id, c.last_stored_id,
    count(e.version), coalesce(min(e.version), 0), coalesce(max(e.version), 0),
    coalesce((select w.wrong_count from wrong w where w.stream = c.source_name), 0),
    coalesce((select n.ids from inverted n where n.stream = c.source_name), '{}'),
    (select count(*) from eventloader.event_inbox i where i.source_name = c.source_name),
    (select count(*) from eventloader.event_inbox i join eventloader.events x
        on x.stream = i.source_name and x.version = i.event_id where i.source_name = c.source_name),
    (select count(*) from eventloader.event_request_log r where r.source_name = c.source_name
        and r.status in ('reserved', 'failed', 'orphaned') and r.after_id < c.last_requested_id),
    coalesce((select array_agg(d.reference::bigint order by d.reference::bigint) from eventloader.dead_letter d
        where d.origin = c.source_name and d.kind = 'conflict'), '{}'),
    (select count(*) from eventloader.dead_letter d where d.origin = c.source_name and d.kind <> 'conflict')
from eventloader.source_cursor c left join eventloader.events e on e.stream = c.source_name
where c.source_name <> 'queue'
group by c.source_name, c.last_requested_id, c.last_stored_id
order by c.source_name";

type StoredRow = (String, i64, i64, i64, i64, i64, i64, Vec<i64>, i64, i64, i64, Vec<i64>, i64);

/// What each source has come to, beside what it has.
pub(crate) async fn stored(pool: &PgPool, origin: &Origin) -> Vec<Stored> {
    let tips = origin.tips();
    let rows: Vec<StoredRow> = sqlx::query_as(STORED).fetch_all(pool).await.unwrap();
    let stored = |row: StoredRow| Stored {
        tip: tips.get(&row.0).copied().unwrap_or(0),
        revised_ids: origin.revised(&row.0),
        source: row.0,
        requested: row.1,
        stored: row.2,
        event_count: row.3,
        min_id: row.4,
        max_id: row.5,
        wrong_count: row.6,
        inverted_ids: row.7,
        inbox_count: row.8,
        in_two_places_count: row.9,
        held_count: row.10,
        conflict_ids: row.11,
        dead_letter_count: row.12,
    };
    rows.into_iter().map(stored).collect()
}
