-- The tables of eventloader, all in schema `eventloader`, which the migrator creates before this file runs.
--
-- Keys of `event_inbox` and `events` begin with the source or the stream, so that a distributed PostgreSQL can shard by
-- them. Small rows that change with every request (lease, rate limit, cursor, stream) keep free space in their pages
-- (fillfactor) and have no index on what changes, so that their updates stay on the page (HOT).

-- What is known of a source beyond its configuration: whether an operator paused it, and how its last requests went.
create table eventloader.source (
    source_name text primary key,
    type text not null,
    paused_at timestamptz,
    paused_by text,
    pause_reason text,
    health text not null default 'ok',
    health_reason text,
    health_since timestamptz not null default clock_timestamp(),
    created_at timestamptz not null default clock_timestamp(),
    constraint source_name_is_short check (octet_length(source_name) between 1 and 190),
    constraint source_health_is_known check (health in ('ok', 'backing_off', 'rejected'))
);

-- The right of one instance to work on a source. The epoch grows with every change of hands and never falls.
create table eventloader.source_lease (
    source_name text primary key references eventloader.source,
    owner text,
    epoch bigint not null default 0,
    expires_at timestamptz,
    constraint lease_owner_has_expiry check (owner is null or expires_at is not null)
) with (fillfactor = 50);

-- When a source was last asked and when it may be asked again; the streaks drive the back-off of every instance.
create table eventloader.source_rate_limit (
    source_name text primary key references eventloader.source,
    last_request_at timestamptz,
    not_before timestamptz,
    empty_streak integer not null default 0,
    failure_streak integer not null default 0,
    constraint streaks_are_counts check (empty_streak >= 0 and failure_streak >= 0)
) with (fillfactor = 50);

-- How far a source has been requested and stored. Only an audited seek moves `last_requested_id` back.
create table eventloader.source_cursor (
    source_name text primary key references eventloader.source,
    last_requested_id bigint not null,
    last_stored_id bigint not null,
    next_attempt integer not null default 1,
    updated_at timestamptz not null default clock_timestamp(),
    constraint stored_never_passes_requested check (last_stored_id <= last_requested_id)
) with (fillfactor = 50);

-- One row is the right to send one request for the window (source_name, after_id).
create table eventloader.event_request_log (
    id bigint generated always as identity primary key,
    source_name text not null references eventloader.source,
    after_id bigint not null,
    limit_count integer not null,
    attempt integer not null,
    status text not null,
    token uuid not null,
    epoch bigint not null,
    owner text not null,
    max_id bigint,
    event_count integer,
    error text,
    retry_at timestamptz,
    closed_by text,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    constraint request_status_is_known
        check (status in ('reserved', 'inbox_only', 'succeeded', 'failed', 'orphaned', 'retried', 'skipped')),
    constraint request_window_is_positive check (limit_count > 0 and attempt > 0)
) with (fillfactor = 80);

-- At most one live row per window: this index is what makes a second request for it impossible.
create unique index event_request_log_one_live_row_per_window
    on eventloader.event_request_log (source_name, after_id)
    where status in ('reserved', 'inbox_only', 'failed', 'orphaned');
create index event_request_log_by_source on eventloader.event_request_log (source_name, id);

-- Where pruned requests go that are to be kept: the same columns, one partition per month of `created_at`. The key holds
-- the partition column, as PostgreSQL asks; there is no default partition, because it would keep others from being
-- detached.
create table eventloader.event_request_log_archive (
    id bigint not null,
    source_name text not null,
    after_id bigint not null,
    limit_count integer not null,
    attempt integer not null,
    status text not null,
    token uuid not null,
    epoch bigint not null,
    owner text not null,
    max_id bigint,
    event_count integer,
    error text,
    retry_at timestamptz,
    closed_by text,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    primary key (id, created_at)
) partition by range (created_at);
create index event_request_log_archive_by_status on eventloader.event_request_log_archive (status, created_at);

-- Events that have arrived and are not yet in `events`.
create table eventloader.event_inbox (
    source_name text not null,
    event_id bigint not null,
    event_type text not null,
    payload jsonb not null,
    message_id uuid,
    occurred_at timestamptz,
    request_id bigint,
    attempts integer not null default 0,
    next_attempt_at timestamptz,
    last_error text,
    received_at timestamptz not null default clock_timestamp(),
    primary key (source_name, event_id)
);

-- The head row of every stream: whoever adds to the stream locks it before a position is drawn.
create table eventloader.stream (
    stream text primary key,
    version bigint not null,
    owner text not null,
    constraint stream_owner_is_known check (owner in ('source', 'application'))
) with (fillfactor = 50);

-- The one log of loaded and appended events.
create table eventloader.events (
    position bigint generated always as identity,
    stream text not null,
    version bigint not null,
    event_type text not null,
    schema_version integer not null default 1,
    payload jsonb not null,
    metadata jsonb not null default '{}',
    tags text[] not null default '{}',
    message_id uuid,
    request_id bigint,
    occurred_at timestamptz,
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (stream, version)
);
create index events_by_position on eventloader.events (position);
create unique index events_message_id_once_per_stream
    on eventloader.events (stream, message_id) where message_id is not null;

-- Anything that was refused or exhausted, kept whole. The same thing refused twice is one row.
create table eventloader.dead_letter (
    id bigint generated always as identity primary key,
    kind text not null,
    origin text not null,
    reference text not null,
    body bytea not null,
    reason text not null,
    attempts integer not null default 1,
    detail jsonb not null default '{}',
    failed_at timestamptz not null default clock_timestamp(),
    replayed_at timestamptz,
    constraint dead_letter_kind_is_known
        check (kind in ('event', 'page', 'conflict', 'message', 'outbox', 'projection'))
);
create unique index dead_letter_once
    on eventloader.dead_letter (origin, kind, reference, sha256(body)) where replayed_at is null;

-- Messages on their way out, written in the application's own transaction.
create table eventloader.outbox (
    id uuid primary key,
    name text not null,
    payload jsonb not null,
    headers jsonb not null default '{}',
    key text,
    created_at timestamptz not null default clock_timestamp(),
    available_at timestamptz not null default clock_timestamp(),
    attempts integer not null default 0,
    last_error text,
    published_at timestamptz
);

-- Who did what by hand, and why.
create table eventloader.audit_log (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    actor text not null,
    action text not null,
    origin text not null,
    detail jsonb not null default '{}'
);

-- `events` is append-only for everybody, owners and superusers included. A rewrite (erasure, archiving) has to say so:
-- set local eventloader.allow_rewrite = 'on'.
create function eventloader.refuse_rewrite() returns trigger
language plpgsql as $$
begin
    if current_setting('eventloader.allow_rewrite', true) = 'on' then
        return null;
    end if;
    raise exception 'eventloader.events is append-only: % refused', lower(tg_op)
        using errcode = 'insufficient_privilege',
              hint = 'add a correcting event instead';
end $$;
create trigger events_append_only
    before update or delete or truncate on eventloader.events
    for each statement execute function eventloader.refuse_rewrite();

-- Queue tables change all the time: look after them sooner than the default 20 % and 10 % of their rows.
alter table eventloader.event_inbox set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.05);
alter table eventloader.event_request_log set (autovacuum_vacuum_scale_factor = 0.05);
