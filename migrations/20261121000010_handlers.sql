-- Subscriptions: named, durable consumers of `events`, each with a checkpoint. Handlers registered in a program read the
-- log through one.
--
-- Every event up to the checkpoint was consumed (its mark is in `consumed_message`), passed over, set aside as a dead
-- letter, or is in a stream that waits in `subscription_retry` at or below it. A binary from before this file can run
-- beside it.

-- Where a subscription stands, and the process that reads for it. The epoch grows with every change of hands: whoever
-- holds an old one writes nothing here any more. No index on what changes, so that updates stay on the page.
create table eventloader.subscription (
    name text primary key,
    position bigint not null default 0,
    owner text,
    epoch bigint not null default 0,
    expires_at timestamptz,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    constraint subscription_name_is_short check (octet_length(name) between 1 and 190),
    constraint subscription_owner_has_expiry check (owner is null or expires_at is not null)
) with (fillfactor = 50);

-- Streams that wait: the event at `position` is to be tried (again), and what follows it in the stream comes after it.
create table eventloader.subscription_retry (
    name text not null references eventloader.subscription on delete cascade,
    stream text not null,
    position bigint not null,
    attempts integer not null,
    next_attempt_at timestamptz not null,
    last_error text,
    primary key (name, stream),
    constraint retry_attempts_are_a_count check (attempts >= 0)
) with (fillfactor = 80);

-- Dead letters that were given back. Their streams have gone on; these events are handled by themselves.
create table eventloader.subscription_replay (
    name text not null references eventloader.subscription on delete cascade,
    position bigint not null,
    attempts integer not null default 0,
    next_attempt_at timestamptz not null default clock_timestamp(),
    last_error text,
    requested_at timestamptz not null default clock_timestamp(),
    primary key (name, position),
    constraint replay_attempts_are_a_count check (attempts >= 0)
);

-- The position up to which the log can be read without passing one that may still appear: the highest that is visible,
-- unless an announced append may still fill one below. This statement's snapshot is older than its look at the locks, so
-- an append that the look misses either draws higher positions later or is over; the rows have to be read by a later
-- statement with a snapshot of its own, never in a REPEATABLE READ transaction.
create function eventloader.log_watermark() returns bigint
language sql as $$
    select least(
        coalesce((select max(e.position) from eventloader.events e), 0),
        (select min(((l.classid::bigint & 65535) << 32) | l.objid::bigint)
         from pg_locks l
         where l.locktype = 'advisory' and l.objsubid = 1 and l.granted and l.mode = 'ShareLock'
           and l.classid::bigint >> 16 = 17740
           and l.database = (select d.oid from pg_database d where d.datname = current_database())))
$$;
call eventloader.grant_roles();
