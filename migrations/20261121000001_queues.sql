-- Queue sources: brokers that deliver messages and want an acknowledgement. Their messages take the way of all events
-- (inbox, `events`, dead letters); instead of a request log, the broker remembers what it delivered, and a message that
-- comes again is recognised here.
--
-- Events carry metadata from now on: headers, keys and properties. Pull sources may bring them too, and may report ids
-- that their own side has dropped. Binaries from before this file can run beside it.

alter table eventloader.event_inbox add column metadata jsonb;

-- The partitions of a source that has several streams (`topic/partition`): each is a source of its own as far as
-- cursor, inbox and log go, and part of the one that is configured, paused and consumed.
alter table eventloader.source add column part_of text references eventloader.source;

-- What was consumed once: the mark is written in the transaction of the effect. Consumers are queue sources, whose
-- effect is the event in the inbox (body_hash tells a repetition from another message under the same id), and handlers.
create table eventloader.consumed_message (
    consumer text not null,
    message_id uuid not null,
    body_hash bytea,
    consumed_at timestamptz not null default clock_timestamp(),
    primary key (consumer, message_id)
);
-- Rows come in the order of time and go in it: ranges of blocks are index enough, and cost the inserts nothing.
create index consumed_message_by_time on eventloader.consumed_message
    using brin (consumed_at) with (pages_per_range = 32, autosummarize = on);

-- Ids that a source no longer has, although they were not read: lost by the retention or trimming of its own side.
create table eventloader.source_gap (
    id bigint generated always as identity primary key,
    source_name text not null references eventloader.source,
    first_id bigint not null,
    last_id bigint not null,
    reason text not null,
    found_at timestamptz not null default clock_timestamp(),
    constraint source_gap_once unique (source_name, first_id, last_id),
    constraint source_gap_is_a_range check (first_id <= last_id)
);

-- Writes gaps down, each once.
create function eventloader.note_gaps(p_source_name text, p_first_ids bigint[], p_last_ids bigint[], p_reasons text[])
returns void
language sql as $$
    insert into eventloader.source_gap (source_name, first_id, last_id, reason)
    select p_source_name, g.first_id, g.last_id, g.reason
    from unnest(p_first_ids, p_last_ids, p_reasons) as g (first_id, last_id, reason)
    on conflict (source_name, first_id, last_id) do nothing;
$$;

-- Stores the page of one reservation: inbox rows, bad events, gaps, cursor, state and request in one transaction.
-- The fence is the reservation (id and token), not the lease: a response that comes after the lease was lost is kept.
--
-- outcome: deposited, empty (the page had no id: the reservation is deleted, so that the tip can be asked again),
--          already (the same deposit was committed before), closed (the reservation was closed meanwhile: refused)
create function eventloader.deposit_page(
    p_source_name text,
    p_request_id bigint,
    p_token uuid,
    p_owner text,
    p_epoch bigint,
    p_max_id bigint,
    p_event_ids bigint[],
    p_event_types text[],
    p_payloads text[],
    p_message_ids uuid[],
    p_occurred_at timestamptz[],
    p_bad_references text[],
    p_bad_bodies bytea[],
    p_bad_reasons text[],
    p_bad_details text[],
    p_request_known_for interval,
    p_not_before_in interval,
    p_empty_streak integer,
    p_state text,                   -- null: as before
    p_metadata text[],              -- null: none
    p_gap_first_ids bigint[],
    p_gap_last_ids bigint[],
    p_gap_reasons text[],
    out outcome text,
    out status text,
    out conflict_count integer
)
language plpgsql as $$
declare
    -- Read before anything else, so that neither the wait for locks nor the work counts as spacing.
    known_at timestamptz := clock_timestamp() - p_request_known_for;
    reservation eventloader.event_request_log;
    requested bigint;
    stored_count integer;
begin
    conflict_count := 0;
    perform 1 from eventloader.source_lease l where l.source_name = p_source_name for update;
    select * into reservation from eventloader.event_request_log r
    where r.id = p_request_id and r.token = p_token
    for update;
    status := reservation.status;
    if status in ('inbox_only', 'succeeded') then
        outcome := 'already';
        return;
    elsif status is null or status not in ('reserved', 'orphaned') then
        -- An empty page deletes its reservation, so a repeated empty deposit finds none: the same answer.
        outcome := case when status is null and p_max_id is null then 'already' else 'closed' end;
        if outcome = 'closed' then
            -- The source was asked all the same, and the lease may still be ours.
            perform eventloader.end_cycle(p_source_name, p_owner, p_epoch, known_at, null, null, null);
        end if;
        return;
    end if;

    insert into eventloader.dead_letter (kind, origin, reference, body, reason, detail)
    select 'event', p_source_name, b.reference, b.body, b.reason,
        b.detail::jsonb || jsonb_build_object('request_id', p_request_id)
    from unnest(p_bad_references, p_bad_bodies, p_bad_reasons, p_bad_details) as b (reference, body, reason, detail)
    on conflict (origin, kind, reference, sha256(body)) where replayed_at is null do nothing;

    perform eventloader.note_gaps(p_source_name, p_gap_first_ids, p_gap_last_ids, p_gap_reasons)
    where cardinality(p_gap_first_ids) > 0;

    if p_max_id is null then
        delete from eventloader.event_request_log r where r.id = p_request_id;
        update eventloader.source_cursor c
        set next_attempt = 1
        where c.source_name = p_source_name and c.next_attempt <> 1;
        outcome := 'empty';
    else
        select c.last_requested_id into requested from eventloader.source_cursor c
        where c.source_name = p_source_name
        for update;
        if requested <> reservation.after_id then
            raise exception 'cursor of % stands at %, but request % asked after %',
                p_source_name, requested, p_request_id, reservation.after_id;
        end if;
        insert into eventloader.event_inbox
            (source_name, event_id, event_type, payload, metadata, message_id, occurred_at, request_id)
        select p_source_name, e.event_id, e.event_type, e.payload::jsonb, e.metadata::jsonb, e.message_id,
            e.occurred_at, p_request_id
        from unnest(p_event_ids, p_event_types, p_payloads, p_metadata, p_message_ids, p_occurred_at)
            as e (event_id, event_type, payload, metadata, message_id, occurred_at)
        on conflict (source_name, event_id) do nothing;
        get diagnostics stored_count = row_count;
        if stored_count < cardinality(p_event_ids) then
            insert into eventloader.dead_letter (kind, origin, reference, body, reason, detail)
            select 'conflict', p_source_name, e.event_id::text, convert_to(e.payload, 'UTF8'),
                'the inbox already holds this id with another body',
                jsonb_build_object('event_id', e.event_id, 'event_type', e.event_type, 'request_id', p_request_id)
            from unnest(p_event_ids, p_event_types, p_payloads) as e (event_id, event_type, payload)
            join eventloader.event_inbox i on i.source_name = p_source_name and i.event_id = e.event_id
            where i.request_id is distinct from p_request_id and i.payload <> e.payload::jsonb
            on conflict (origin, kind, reference, sha256(body)) where replayed_at is null do nothing;
            get diagnostics conflict_count = row_count;
        end if;
        update eventloader.source_cursor c
        set last_requested_id = p_max_id, next_attempt = 1, updated_at = clock_timestamp()
        where c.source_name = p_source_name;
        update eventloader.event_request_log r
        set status = 'inbox_only', max_id = p_max_id, event_count = cardinality(p_event_ids), error = null,
            retry_at = null, updated_at = clock_timestamp()
        where r.id = p_request_id;
        outcome := 'deposited';
    end if;

    if p_state is not null then
        update eventloader.source_cursor c
        set state = p_state::json, updated_at = clock_timestamp()
        where c.source_name = p_source_name;
    end if;
    perform eventloader.end_cycle(
        p_source_name, p_owner, p_epoch, known_at, p_not_before_in, p_empty_streak, 0);
    update eventloader.source s
    set health = 'ok', health_reason = null, health_since = clock_timestamp()
    where s.source_name = p_source_name and s.health <> 'ok';
end $$;

-- As binaries from before this file call it.
create or replace function eventloader.deposit(
    p_source_name text,
    p_request_id bigint,
    p_token uuid,
    p_owner text,
    p_epoch bigint,
    p_max_id bigint,
    p_event_ids bigint[],
    p_event_types text[],
    p_payloads text[],
    p_message_ids uuid[],
    p_occurred_at timestamptz[],
    p_bad_references text[],
    p_bad_bodies bytea[],
    p_bad_reasons text[],
    p_bad_details text[],
    p_request_known_for interval,
    p_not_before_in interval,
    p_empty_streak integer,
    out outcome text,
    out status text,
    out conflict_count integer
)
language sql as $$
    select d.outcome, d.status, d.conflict_count
    from eventloader.deposit_page(p_source_name, p_request_id, p_token, p_owner, p_epoch, p_max_id, p_event_ids,
        p_event_types, p_payloads, p_message_ids, p_occurred_at, p_bad_references, p_bad_bodies, p_bad_reasons,
        p_bad_details, p_request_known_for, p_not_before_in, p_empty_streak, null, null, null, null, null) d;
$$;

-- What a replay needs besides the body of an inbox row that becomes a dead letter.
create function eventloader.inbox_detail(i eventloader.event_inbox) returns jsonb
language sql immutable as $$
    select jsonb_build_object('event_id', i.event_id, 'event_type', i.event_type, 'message_id', i.message_id,
            'occurred_at', i.occurred_at, 'request_id', i.request_id)
        || case when i.metadata is null then '{}' else jsonb_build_object('metadata', i.metadata) end
$$;

-- Moves the rows of a batch, which are locked, as is the head of the stream.
create or replace function eventloader.move_rows(
    p_source_name text,
    p_batch bigint[],
    out moved_count integer,
    out duplicate_count integer,
    out conflict_count integer
)
language plpgsql as $$
begin
    conflict_count := eventloader.set_conflicts_aside(p_source_name, p_batch);
    perform eventloader.announce_append();
    insert into eventloader.events (stream, version, event_type, payload, metadata, message_id, request_id, occurred_at)
    select i.source_name, i.event_id, i.event_type, i.payload, coalesce(i.metadata, '{}'), i.message_id,
        i.request_id, i.occurred_at
    from eventloader.event_inbox i
    where i.source_name = p_source_name
      and i.event_id = any (p_batch)
      and not exists (
          select from eventloader.events e where e.stream = p_source_name and e.version = i.event_id)
    order by i.event_id;
    get diagnostics moved_count = row_count;
    delete from eventloader.event_inbox i where i.source_name = p_source_name and i.event_id = any (p_batch);
    duplicate_count := cardinality(p_batch) - conflict_count - moved_count;
    update eventloader.stream h
    set version = greatest(h.version, p_batch[cardinality(p_batch)])
    where h.stream = p_source_name;
end $$;

-- Takes rows out of a batch whose id, or whose message id, is in `events` already with another body. What came first
-- stays; the other goes to `dead_letter`.
create or replace function eventloader.set_conflicts_aside(p_source_name text, p_batch bigint[]) returns integer
language plpgsql as $$
declare
    conflict_count integer;
begin
    with incoming as materialized (
        select i.event_id, i.message_id, e.version is not null as is_stored, e.payload <> i.payload as differs
        from eventloader.event_inbox i
        left join eventloader.events e on e.stream = p_source_name and e.version = i.event_id
        where i.source_name = p_source_name and i.event_id = any (p_batch)
    ), named as (
        select n.event_id, n.message_id, min(n.event_id) over (partition by n.message_id) as first_id
        from incoming n
        where n.message_id is not null and not n.is_stored
    ), conflict as (
        select n.event_id, 'events already holds this id with another body' as reason
        from incoming n
        where n.differs
        union all
        select n.event_id, format('message_id %s is that of another event of this source', n.message_id)
        from named n
        where n.event_id > n.first_id
           or exists (select from eventloader.events e where e.stream = p_source_name and e.message_id = n.message_id)
    ), taken as (
        delete from eventloader.event_inbox i
        using conflict c
        where i.source_name = p_source_name and i.event_id = c.event_id
        returning i as inbox_row, c.reason
    ), kept as (
        insert into eventloader.dead_letter (kind, origin, reference, body, reason, detail)
        select 'conflict', p_source_name, (t.inbox_row).event_id::text,
            convert_to((t.inbox_row).payload::text, 'UTF8'), t.reason, eventloader.inbox_detail(t.inbox_row)
        from taken t
        on conflict (origin, kind, reference, sha256(body)) where replayed_at is null do nothing
    )
    select count(*) into conflict_count from taken;
    return conflict_count;
end $$;

-- Writes down that one row could not be moved: another attempt later, or, after the last one, a dead letter.
-- Answers whether the row became a dead letter; null: the row is gone, locked by somebody else, or was tried again since
-- it had p_attempts, so that workers that meet the same row burn one attempt.
create or replace function eventloader.fail_inbox_row(
    p_source_name text,
    p_event_id bigint,
    p_attempts integer,
    p_error text,
    p_max_attempts integer,
    p_retry_in interval
) returns boolean
language plpgsql as $$
declare
    failed eventloader.event_inbox;
begin
    perform 1 from eventloader.stream h where h.stream = p_source_name for update;
    update eventloader.event_inbox i
    set attempts = i.attempts + 1, next_attempt_at = clock_timestamp() + p_retry_in, last_error = p_error
    where i.source_name = p_source_name
      and i.event_id = (
          select l.event_id from eventloader.event_inbox l
          where l.source_name = p_source_name and l.event_id = p_event_id and l.attempts = p_attempts
          for update skip locked)
    returning * into failed;
    if failed.event_id is null or failed.attempts < p_max_attempts then
        return case when failed.event_id is not null then false end;
    end if;
    insert into eventloader.dead_letter (kind, origin, reference, body, reason, attempts, detail)
    values ('event', p_source_name, failed.event_id::text, convert_to(failed.payload::text, 'UTF8'), p_error,
        failed.attempts, eventloader.inbox_detail(failed))
    on conflict (origin, kind, reference, sha256(body)) where replayed_at is null do nothing;
    delete from eventloader.event_inbox i where i.source_name = p_source_name and i.event_id = p_event_id;
    perform eventloader.advance_stored(p_source_name, p_event_id);
    return true;
end $$;

-- The second half of a move whose events went to another database: the rows leave the inbox, those that conflict there
-- go to `dead_letter`. The rows are locked by the caller's transaction.
create or replace function eventloader.finish_batch(
    p_source_name text,
    p_event_ids bigint[],
    p_conflict_ids bigint[],
    p_conflict_reasons text[]
) returns void
language plpgsql as $$
begin
    insert into eventloader.dead_letter (kind, origin, reference, body, reason, detail)
    select 'conflict', p_source_name, i.event_id::text, convert_to(i.payload::text, 'UTF8'), c.reason,
        eventloader.inbox_detail(i)
    from unnest(p_conflict_ids, p_conflict_reasons) as c (event_id, reason)
    join eventloader.event_inbox i on i.source_name = p_source_name and i.event_id = c.event_id
    on conflict (origin, kind, reference, sha256(body)) where replayed_at is null do nothing;
    delete from eventloader.event_inbox i
    where i.source_name = p_source_name and i.event_id = any (p_event_ids || p_conflict_ids);
    update eventloader.stream h
    set version = greatest(h.version, (select max(e) from unnest(p_event_ids) e))
    where h.stream = p_source_name;
    perform eventloader.advance_stored(p_source_name, (select max(e) from unnest(p_event_ids) e));
end $$;

-- The first half, called in the other database: stores rows under the same key, so that a repeated call changes
-- nothing. Answers the rows that are not added: those that are there already (reason null), and those that conflict
-- with what is there.
create function eventloader.store_rows(
    p_stream text,
    p_versions bigint[],
    p_event_types text[],
    p_payloads text[],
    p_message_ids uuid[],
    p_request_ids bigint[],
    p_occurred_at timestamptz[],
    p_metadata text[]
) returns table (version bigint, reason text)
language plpgsql
-- `create … if not exists` would tell every batch that the table is there.
set client_min_messages = 'warning'
as $$
begin
    insert into eventloader.stream (stream, version, owner)
    values (p_stream, 0, 'source')
    on conflict (stream) do nothing;
    perform 1 from eventloader.stream h where h.stream = p_stream and h.owner = 'source' for update;
    if not found then
        raise exception 'stream % belongs to an application, a source cannot write to it', p_stream
            using errcode = 'EL002';
    end if;
    create temporary table if not exists incoming_rows (
        version bigint primary key, event_type text, payload jsonb, message_id uuid, request_id bigint,
        occurred_at timestamptz, metadata jsonb
    ) on commit delete rows;
    insert into pg_temp.incoming_rows
    select * from unnest(p_versions, p_event_types, p_payloads::jsonb[], p_message_ids, p_request_ids, p_occurred_at,
        p_metadata::jsonb[]);

    return query
        with incoming as materialized (
            select i.version, i.message_id, e.version is not null as is_stored, e.payload <> i.payload as differs
            from pg_temp.incoming_rows i
            left join eventloader.events e on e.stream = p_stream and e.version = i.version
        ), named as (
            select n.version, n.message_id, min(n.version) over (partition by n.message_id) as first_version
            from incoming n
            where n.message_id is not null and not n.is_stored
        ), aside as (
            select n.version, 'events already holds this id with another body' as reason
            from incoming n
            where n.differs
            union all
            select n.version, format('message_id %s is that of another event of this source', n.message_id)
            from named n
            where n.version > n.first_version
               or exists (select from eventloader.events e where e.stream = p_stream and e.message_id = n.message_id)
            union all
            select n.version, null
            from incoming n
            where n.is_stored and not n.differs
        ), taken as (
            delete from pg_temp.incoming_rows i using aside a where i.version = a.version
        )
        select a.version, a.reason from aside a;

    perform eventloader.announce_append();
    insert into eventloader.events (stream, version, event_type, payload, metadata, message_id, request_id, occurred_at)
    select p_stream, i.version, i.event_type, i.payload, coalesce(i.metadata, '{}'), i.message_id, i.request_id,
        i.occurred_at
    from pg_temp.incoming_rows i
    order by i.version;
    update eventloader.stream h
    set version = greatest(h.version, p_versions[cardinality(p_versions)])
    where h.stream = p_stream;
    delete from pg_temp.incoming_rows;
end $$;

-- As binaries from before this file call it.
create or replace function eventloader.store_events(
    p_stream text,
    p_versions bigint[],
    p_event_types text[],
    p_payloads text[],
    p_message_ids uuid[],
    p_request_ids bigint[],
    p_occurred_at timestamptz[]
) returns table (version bigint, reason text)
language sql as $$
    select r.version, r.reason
    from eventloader.store_rows(
        p_stream, p_versions, p_event_types, p_payloads, p_message_ids, p_request_ids, p_occurred_at, null) r;
$$;

-- Makes the rows of a partition of a source, where there are none. False: the stream is that of an application, of
-- another source, or of a partition of another source.
create function eventloader.ensure_partition(p_source_name text, p_stream text) returns boolean
language plpgsql as $$
begin
    perform 1 from eventloader.source s where s.source_name = p_stream and s.part_of = p_source_name;
    if found then
        return true;
    end if;
    insert into eventloader.stream (stream, version, owner)
    values (p_stream, 0, 'source')
    on conflict (stream) do nothing;
    if not found then
        -- Somebody else's, or one that another instance made just now.
        perform 1 from eventloader.source s where s.source_name = p_stream and s.part_of = p_source_name;
        return found;
    end if;
    insert into eventloader.source (source_name, type, part_of)
    select p_stream, s.type, s.source_name from eventloader.source s where s.source_name = p_source_name;
    insert into eventloader.source_lease (source_name) values (p_stream);
    insert into eventloader.source_rate_limit (source_name) values (p_stream);
    insert into eventloader.source_cursor (source_name, last_requested_id, last_stored_id) values (p_stream, -1, -1);
    return true;
end $$;

-- Stores what a queue source delivered for one stream: inbox rows, dead letters, gaps and cursor in one transaction.
-- The messages may be acknowledged when it has committed, and conflicts were set aside.
--
-- A message is new unless its message id was consumed by this source before, or its version is in the inbox or in
-- `events`. Equal bodies are duplicates; for others the places (from 1) and reasons are answered, because only the
-- caller has the messages verbatim. Whoever repeats the call after a lost reply gets duplicates.
--
-- Versions are the broker's own (p_versions), or given here in order of arrival (null). The broker's may come late: an
-- instance that took over a message of another, a group that was set back. Then the watermark goes below them.
--
-- outcome: stored, taken (the stream belongs to somebody else), missing (the source is not registered)
create function eventloader.deposit_messages(
    p_source_name text,
    p_stream text,
    p_versions bigint[],
    p_event_types text[],
    p_payloads text[],
    p_metadata text[],
    p_message_ids uuid[],
    p_occurred_at timestamptz[],
    p_body_hashes bytea[],
    p_max_version bigint,           -- of all that was delivered, bad messages too; null: given here, or nothing was
    p_bad_references text[],
    p_bad_bodies bytea[],
    p_bad_reasons text[],
    p_bad_details text[],
    p_gap_first_ids bigint[],
    p_gap_last_ids bigint[],
    p_gap_reasons text[],
    out outcome text,
    out stored_count integer,
    out duplicate_count integer,
    out conflict_places integer[],
    out conflict_reasons text[]
)
language plpgsql as $$
declare
    window_ eventloader.source_cursor;
    last_version bigint;
    fresh uuid[];
    old_places bigint[] := '{}';
    lowest_stored bigint;
    highest_stored bigint;
begin
    stored_count := 0;
    duplicate_count := 0;
    if p_stream <> p_source_name and not eventloader.ensure_partition(p_source_name, p_stream) then
        outcome := 'taken';
        return;
    end if;
    select * into window_ from eventloader.source_cursor c where c.source_name = p_stream for update;
    if not found then
        outcome := 'missing';
        return;
    end if;
    -- A number that was given stays given, even if somebody set the cursor back.
    select greatest(h.version, window_.last_requested_id) into last_version
    from eventloader.stream h
    where h.stream = p_stream;

    perform eventloader.keep_messages('message', p_stream, p_bad_references, p_bad_bodies, p_bad_reasons, p_bad_details)
    where cardinality(p_bad_bodies) > 0;
    perform eventloader.note_gaps(p_stream, p_gap_first_ids, p_gap_last_ids, p_gap_reasons)
    where cardinality(p_gap_first_ids) > 0;

    with first as (
        select distinct on (m.message_id) m.message_id, m.body_hash
        from unnest(p_message_ids, p_body_hashes) with ordinality as m (message_id, body_hash, place)
        where m.message_id is not null
        order by m.message_id, m.place
    ), marked as (
        insert into eventloader.consumed_message (consumer, message_id, body_hash)
        select p_source_name, f.message_id, f.body_hash from first f
        on conflict (consumer, message_id) do nothing
        returning message_id
    )
    select coalesce(array_agg(m.message_id), '{}') into fresh from marked m;

    -- Nothing of the usual batch was here before: then there is nothing to compare.
    if cardinality(fresh) < cardinality(array_remove(p_message_ids, null))
        or exists (select from unnest(p_versions) v where v <= window_.last_requested_id)
    then
        with incoming as materialized (
            select m.*,
                row_number() over (partition by m.message_id order by m.place) as id_rank,
                first_value(m.payload) over (partition by m.version order by m.place) as first_payload,
                first_value(m.metadata) over (partition by m.version order by m.place) as first_metadata,
                row_number() over (partition by m.version order by m.place) as version_rank
            from unnest(p_versions, p_payloads, p_metadata, p_message_ids, p_body_hashes)
                with ordinality as m (version, payload, metadata, message_id, body_hash, place)
        ), known as (
            select m.place, 1 as rank, l.body_hash is distinct from m.body_hash as differs,
                format('message_id %s came before with another body', m.message_id) as reason
            from incoming m
            join eventloader.consumed_message l on l.consumer = p_source_name and l.message_id = m.message_id
            where m.id_rank > 1 or not m.message_id = any (fresh)
            union all
            select m.place, 2,
                coalesce(i.payload, e.payload, m.first_payload::jsonb) <> m.payload::jsonb
                or eventloader.broker_marks(coalesce(i.metadata, e.metadata, m.first_metadata::jsonb))
                    is distinct from eventloader.broker_marks(m.metadata::jsonb),
                format('version %s came before with another body', m.version)
            from incoming m
            left join eventloader.event_inbox i on i.source_name = p_stream and i.event_id = m.version
            left join eventloader.events e on e.stream = p_stream and e.version = m.version
            where m.version is not null
              and (i.event_id is not null or e.version is not null or m.version_rank > 1)
        ), judged as (
            select distinct on (k.place) k.place, k.differs, k.reason from known k
            order by k.place, k.differs desc, k.rank
        )
        select coalesce(array_agg(j.place), '{}'),
            count(*) filter (where not j.differs),
            array_agg(j.place::integer order by j.place) filter (where j.differs),
            array_agg(j.reason order by j.place) filter (where j.differs)
        into old_places, duplicate_count, conflict_places, conflict_reasons
        from judged j;
    end if;

    with stored as (
        insert into eventloader.event_inbox
            (source_name, event_id, event_type, payload, metadata, message_id, occurred_at)
        select p_stream,
            coalesce(m.version, last_version + row_number() over (order by m.place)),
            m.event_type, m.payload::jsonb, m.metadata::jsonb, m.message_id, m.occurred_at
        from unnest(p_versions, p_event_types, p_payloads, p_metadata, p_message_ids, p_occurred_at)
            with ordinality as m (version, event_type, payload, metadata, message_id, occurred_at, place)
        where cardinality(old_places) = 0 or not m.place = any (old_places)
        returning event_id
    )
    select count(*), min(s.event_id), max(s.event_id) into stored_count, lowest_stored, highest_stored from stored s;

    update eventloader.source_cursor c
    set last_requested_id = greatest(c.last_requested_id, highest_stored, p_max_version),
        last_stored_id = least(c.last_stored_id, lowest_stored - 1),
        updated_at = clock_timestamp()
    where c.source_name = p_stream
      and (stored_count > 0 or p_max_version > c.last_requested_id);
    -- Not that of the whole source: its partitions are deposited beside each other.
    update eventloader.source_rate_limit l set last_request_at = clock_timestamp()
    where l.source_name = p_stream;
    outcome := 'stored';
end $$;

-- What tells apart messages of equal bodies at one version, of a stream that was made again: `null` deletes key a, or b.
create function eventloader.broker_marks(p_metadata jsonb) returns jsonb
language sql immutable as $$
    select jsonb_build_array(p_metadata -> 'key', p_metadata -> 'key_base64', p_metadata -> 'timestamp')
$$;

-- Keeps messages as dead letters, each once while it is not replayed; one that comes again is counted.
create function eventloader.keep_messages(
    p_kind text,
    p_origin text,
    p_references text[],
    p_bodies bytea[],
    p_reasons text[],
    p_details text[]
) returns void
language sql as $$
    insert into eventloader.dead_letter (kind, origin, reference, body, reason, detail)
    select p_kind, p_origin, b.reference, b.body, b.reason, b.detail::jsonb
    from (
        -- One statement can change a row once.
        select distinct on (u.reference, sha256(u.body)) u.*
        from unnest(p_references, p_bodies, p_reasons, p_details) with ordinality as u (reference, body, reason, detail, place)
        order by u.reference, sha256(u.body), u.place
    ) b
    order by b.place
    on conflict (origin, kind, reference, sha256(body)) where replayed_at is null
    do update set attempts = eventloader.dead_letter.attempts + 1;
$$;

-- What operators see of each source: now with the source that a partition is part of, and how many gaps were found.
create or replace view eventloader.source_status as
select
    s.source_name,
    s.type,
    case
        when s.paused_at is not null then 'paused'
        when held.retry_at is not null and not coalesce(in_flight.yes, false) then 'backing_off'
        when held.id is not null and not coalesce(in_flight.yes, false) then 'held'
        when s.health <> 'ok' then s.health
        else 'ok'
    end as state,
    case
        when s.paused_at is not null then coalesce(s.pause_reason, 'paused by ' || s.paused_by)
        when held.status = 'reserved' and not coalesce(in_flight.yes, false)
            then format('request %s is unanswered and instance %s is silent', held.id, held.owner)
        when held.status in ('failed', 'orphaned') and held.retry_at is not null
            then format('%s; asked again by itself at %s', held.error,
                to_char(held.retry_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'))
        when held.status in ('failed', 'orphaned') then held.error
        else s.health_reason
    end as reason,
    case
        when s.paused_at is not null then 'eventloader sources resume ' || s.source_name
        when held.status in ('failed', 'orphaned') then 'eventloader requests retry ' || held.id
        -- Once the cause is removed nobody has to wait for the back-off. A Retry-After is the source's wish: no remedy.
        when s.health = 'rejected' and r.not_before > clock_timestamp()
            then 'eventloader sources resume ' || s.source_name
    end as remedy,
    c.last_requested_id,
    c.last_stored_id,
    case when l.expires_at > clock_timestamp() then l.owner end as lease_owner,
    l.expires_at as lease_expires_at,
    r.last_request_at,
    case when r.not_before > clock_timestamp() then r.not_before end as not_before,
    held.id as held_request_id,
    held.status as held_status,
    (select count(*) from eventloader.event_inbox i
     where i.source_name = s.source_name and i.event_id > c.last_stored_id and i.attempts > 0) as failing_inbox_count,
    (select count(*) from eventloader.dead_letter d
     where d.origin = s.source_name and d.replayed_at is null) as dead_letter_count,
    s.part_of,
    (select count(*) from eventloader.source_gap g where g.source_name = s.source_name) as gap_count
from eventloader.source s
join eventloader.source_lease l using (source_name)
join eventloader.source_rate_limit r using (source_name)
join eventloader.source_cursor c using (source_name)
left join eventloader.event_request_log held
    on held.source_name = s.source_name
    and held.after_id = c.last_requested_id
    and held.status in ('reserved', 'inbox_only', 'failed', 'orphaned')
left join lateral (
    select held.status = 'inbox_only' or (held.status = 'reserved' and l.expires_at > clock_timestamp()) as yes
) in_flight on true;

-- Rows come and go in the order of time; a vacuum now and then is enough, but not one for every fifth of a large table.
alter table eventloader.consumed_message set (autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_insert_scale_factor = 0.1);

call eventloader.grant_roles();
