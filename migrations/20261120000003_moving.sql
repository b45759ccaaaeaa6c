-- Moving inbox rows to `events`, in id order per source.
--
-- Whoever moves a source holds the head row of its stream, so positions are drawn in version order. Rows that somebody
-- else has locked, and rows that wait for another attempt, are left for a later pass: they take a later position then.

-- Announces an append to readers of the log. Has to be called after the head row is locked and before a position is
-- drawn: a reader never passes the lowest position that an announced, uncommitted append may still fill.
-- The key of the shared lock has 17740 ("EL") in its high 16 bits, so that it meets nobody else's, and the last
-- position given out in the low 48.
create function eventloader.announce_append() returns void
language plpgsql as $$
declare
    last_position bigint;
begin
    select s.last_value - (case when s.is_called then 0 else 1 end) into last_position
    from eventloader.events_position_seq s;
    perform pg_advisory_xact_lock_shared((17740::bigint << 48) | last_position);
end $$;

-- Recomputes the watermark of a source: every id up to `last_stored_id` is in `events` or in `dead_letter`.
-- Requests with no row left in the inbox have succeeded, also those above a row that pins the watermark; of these only
-- the ones that begin below p_moved_to are looked at (null: all), so that a long backlog costs nothing here.
-- Locks the cursor first, so that a deposit that moved it is visible to the statement that looks for the lowest row
-- left.
create function eventloader.advance_stored(p_source_name text, p_moved_to bigint) returns bigint
language plpgsql as $$
declare
    window_ eventloader.source_cursor;
    lowest_left bigint;
    stored bigint;
begin
    select * into window_ from eventloader.source_cursor c where c.source_name = p_source_name for update;
    select i.event_id into lowest_left from eventloader.event_inbox i
    where i.source_name = p_source_name and i.event_id > window_.last_stored_id
    order by i.event_id
    limit 1;
    stored := coalesce(least(lowest_left - 1, window_.last_requested_id), window_.last_requested_id);
    if stored > window_.last_stored_id then
        update eventloader.source_cursor c
        set last_stored_id = stored, updated_at = clock_timestamp()
        where c.source_name = p_source_name;
    end if;
    update eventloader.event_request_log r
    set status = 'succeeded', updated_at = clock_timestamp()
    where r.source_name = p_source_name
      and r.status = 'inbox_only'
      and r.after_id < greatest(stored, coalesce(p_moved_to, window_.last_requested_id))
      and not exists (
          select from eventloader.event_inbox i
          where i.source_name = p_source_name
            and i.event_id > greatest(r.after_id, stored)
            and i.event_id <= r.max_id);
    return stored;
end $$;

-- Moves up to p_limit rows of one source.
--
-- outcome: moved, none (nothing can be moved now), busy (another instance is moving this source),
--          failed (the batch was one row, and it cannot be stored: failed_event_id tells which, failure why)
--
-- A batch of more rows that cannot be stored raises the error and changes nothing: the caller asks for fewer rows.
create function eventloader.move_batch(
    p_source_name text,
    p_limit integer,
    out outcome text,
    out moved_count integer,
    out duplicate_count integer,
    out conflict_count integer,
    out failed_event_id bigint,
    out failed_attempts integer,
    out failure text
)
language plpgsql as $$
declare
    low_watermark bigint;
    batch bigint[];
begin
    perform 1 from eventloader.stream h
    where h.stream = p_source_name and h.owner = 'source'
    for update skip locked;
    if not found then
        outcome := 'busy';
        return;
    end if;
    select c.last_stored_id into low_watermark from eventloader.source_cursor c where c.source_name = p_source_name;
    batch := eventloader.lock_inbox_batch(p_source_name, low_watermark, p_limit);
    if batch is null then
        perform eventloader.advance_stored(p_source_name, null);
        outcome := 'none';
        return;
    end if;

    if cardinality(batch) > 1 then
        select m.* into moved_count, duplicate_count, conflict_count
        from eventloader.move_rows(p_source_name, batch) m;
    else
        begin
            select m.* into moved_count, duplicate_count, conflict_count
            from eventloader.move_rows(p_source_name, batch) m;
        exception
            when data_exception or integrity_constraint_violation or program_limit_exceeded or plpgsql_error then
                outcome := 'failed';
                failed_event_id := batch[1];
                failure := sqlerrm;
                select i.attempts into failed_attempts from eventloader.event_inbox i
                where i.source_name = p_source_name and i.event_id = failed_event_id;
                return;
        end;
    end if;
    perform eventloader.advance_stored(p_source_name, batch[cardinality(batch)]);
    outcome := 'moved';
end $$;

-- Moves the rows of a batch, which are locked, as is the head of the stream.
create function eventloader.move_rows(
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
    insert into eventloader.events (stream, version, event_type, payload, message_id, request_id, occurred_at)
    select i.source_name, i.event_id, i.event_type, i.payload, i.message_id, i.request_id, i.occurred_at
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

-- Locks the next rows of a source that may be moved, in id order; null: none. The lower bound keeps the scan from
-- walking over rows that were moved already and are not vacuumed yet.
create function eventloader.lock_inbox_batch(p_source_name text, p_above bigint, p_limit integer) returns bigint[]
language sql as $$
    select array_agg(b.event_id order by b.event_id)
    from (
        select i.event_id
        from eventloader.event_inbox i
        where i.source_name = p_source_name
          and i.event_id > p_above
          and (i.next_attempt_at is null or i.next_attempt_at <= clock_timestamp())
        order by i.event_id
        limit p_limit
        for update skip locked
    ) b
$$;

-- Takes rows out of a batch whose id, or whose message id, is in `events` already with another body. What came first
-- stays; the other goes to `dead_letter`.
create function eventloader.set_conflicts_aside(p_source_name text, p_batch bigint[]) returns integer
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
        returning i.event_id, i.event_type, i.payload, i.message_id, i.request_id, i.occurred_at, c.reason
    ), kept as (
        insert into eventloader.dead_letter (kind, origin, reference, body, reason, detail)
        select 'conflict', p_source_name, t.event_id::text, convert_to(t.payload::text, 'UTF8'), t.reason,
            jsonb_build_object('event_id', t.event_id, 'event_type', t.event_type, 'message_id', t.message_id,
                'occurred_at', t.occurred_at, 'request_id', t.request_id)
        from taken t
        on conflict (origin, kind, reference, sha256(body)) where replayed_at is null do nothing
    )
    select count(*) into conflict_count from taken;
    return conflict_count;
end $$;

-- Writes down that one row could not be moved: another attempt later, or, after the last one, a dead letter.
-- Answers whether the row became a dead letter; null: the row is gone, locked by somebody else, or was tried again since
-- it had p_attempts, so that workers that meet the same row burn one attempt.
create function eventloader.fail_inbox_row(
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
        failed.attempts,
        jsonb_build_object('event_id', failed.event_id, 'event_type', failed.event_type,
            'message_id', failed.message_id, 'occurred_at', failed.occurred_at, 'request_id', failed.request_id))
    on conflict (origin, kind, reference, sha256(body)) where replayed_at is null do nothing;
    delete from eventloader.event_inbox i where i.source_name = p_source_name and i.event_id = p_event_id;
    perform eventloader.advance_stored(p_source_name, p_event_id);
    return true;
end $$;

-- The second half of a move whose events went to another database: the rows leave the inbox, those that conflict there
-- go to `dead_letter`. The rows are locked by the caller's transaction.
create function eventloader.finish_batch(
    p_source_name text,
    p_event_ids bigint[],
    p_conflict_ids bigint[],
    p_conflict_reasons text[]
) returns void
language plpgsql as $$
begin
    insert into eventloader.dead_letter (kind, origin, reference, body, reason, detail)
    select 'conflict', p_source_name, i.event_id::text, convert_to(i.payload::text, 'UTF8'), c.reason,
        jsonb_build_object('event_id', i.event_id, 'event_type', i.event_type, 'message_id', i.message_id,
            'occurred_at', i.occurred_at, 'request_id', i.request_id)
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
create function eventloader.store_events(
    p_stream text,
    p_versions bigint[],
    p_event_types text[],
    p_payloads text[],
    p_message_ids uuid[],
    p_request_ids bigint[],
    p_occurred_at timestamptz[]
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
    create temporary table if not exists incoming_events (
        version bigint primary key, event_type text, payload jsonb, message_id uuid, request_id bigint,
        occurred_at timestamptz
    ) on commit delete rows;
    insert into pg_temp.incoming_events
    select * from unnest(p_versions, p_event_types, p_payloads::jsonb[], p_message_ids, p_request_ids, p_occurred_at);

    return query
        with incoming as materialized (
            select i.version, i.message_id, e.version is not null as is_stored, e.payload <> i.payload as differs
            from pg_temp.incoming_events i
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
            delete from pg_temp.incoming_events i using aside a where i.version = a.version
        )
        select a.version, a.reason from aside a;

    perform eventloader.announce_append();
    insert into eventloader.events (stream, version, event_type, payload, message_id, request_id, occurred_at)
    select p_stream, i.version, i.event_type, i.payload, i.message_id, i.request_id, i.occurred_at
    from pg_temp.incoming_events i
    order by i.version;
    update eventloader.stream h
    set version = greatest(h.version, p_versions[cardinality(p_versions)])
    where h.stream = p_stream;
    delete from pg_temp.incoming_events;
end $$;
