-- What is usual is stored and moved by one statement: nothing of it was here before, and everything can be stored.
-- Anything else is looked at row by row, as before.

-- Moves up to p_limit new rows of one source, in one statement. Raises an error, and changes nothing, if one of them is
-- in `events` already, cannot be stored, or is locked by somebody else. The head of the stream is locked, and nobody
-- moves without it: to lock each row as well would cost a tenth of the time and of the WAL. moved_to null: nothing can
-- be moved now.
create function eventloader.move_new_rows(
    p_source_name text,
    p_above bigint,
    p_limit integer,
    out moved_count integer,
    out moved_to bigint
)
language plpgsql
-- Long enough for whoever adds a page to the table, too short for an operator's open transaction.
set lock_timeout = '50ms'
-- Whatever is known of the tables: along the key, from its lower end, until the batch is full. What is off counts as
-- very dear, and for dear plans code is compiled, which takes longer than the move.
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
begin
    perform eventloader.announce_append();
    with taken as (
        delete from eventloader.event_inbox i
        where i.ctid = any (array(
            select w.ctid
            from eventloader.event_inbox w
            where w.source_name = p_source_name
              and w.event_id > p_above
              and (w.next_attempt_at is null or w.next_attempt_at <= clock_timestamp())
            order by w.event_id
            limit p_limit))
        returning i.*
    ), stored as (
        insert into eventloader.events
            (stream, version, event_type, payload, metadata, message_id, request_id, occurred_at)
        select t.source_name, t.event_id, t.event_type, t.payload, coalesce(t.metadata, '{}'), t.message_id,
            t.request_id, t.occurred_at
        from taken t
        order by t.event_id
        returning version
    )
    select count(*), max(s.version) into moved_count, moved_to from stored s;
    update eventloader.stream h
    set version = greatest(h.version, moved_to)
    where h.stream = p_source_name and h.version < moved_to;
end $$;

-- Moves up to p_limit rows of one source; outcomes as before. The usual batch is moved by one statement. Any other is
-- looked at row by row, and rows that somebody else has locked are passed by.
create or replace function eventloader.move_batch(
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
    moved_to bigint;
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

    -- Nothing of the usual batch was here before, and everything can be stored.
    begin
        select m.moved_count, m.moved_to into moved_count, moved_to
        from eventloader.move_new_rows(p_source_name, low_watermark, p_limit) m;
        duplicate_count := 0;
        conflict_count := 0;
    exception
        when data_exception or integrity_constraint_violation or program_limit_exceeded or plpgsql_error
            or lock_not_available
        then
            moved_to := null;
            batch := eventloader.lock_inbox_batch(p_source_name, low_watermark, p_limit);
    end;

    if cardinality(batch) > 1 then
        select m.* into moved_count, duplicate_count, conflict_count
        from eventloader.move_rows(p_source_name, batch) m;
    elsif batch is not null then
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
    moved_to := coalesce(moved_to, batch[cardinality(batch)]);
    perform eventloader.advance_stored(p_source_name, moved_to);
    outcome := case when moved_to is null then 'none' else 'moved' end;
end $$;

-- Stores a page, as before. What is in the inbox already is found event by event: `lateral … offset 0` keeps the planner
-- from reading all of the source's rows for it.
create or replace function eventloader.deposit_page(
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
        -- `on conflict` costs every row; a page of which something is in the inbox already is rare.
        begin
            insert into eventloader.event_inbox
                (source_name, event_id, event_type, payload, metadata, message_id, occurred_at, request_id)
            select p_source_name, e.event_id, e.event_type, e.payload::jsonb, e.metadata::jsonb, e.message_id,
                e.occurred_at, p_request_id
            from unnest(p_event_ids, p_event_types, p_payloads, p_metadata, p_message_ids, p_occurred_at)
                as e (event_id, event_type, payload, metadata, message_id, occurred_at);
            stored_count := cardinality(p_event_ids);
        exception
            when unique_violation then
                insert into eventloader.event_inbox
                    (source_name, event_id, event_type, payload, metadata, message_id, occurred_at, request_id)
                select p_source_name, e.event_id, e.event_type, e.payload::jsonb, e.metadata::jsonb, e.message_id,
                    e.occurred_at, p_request_id
                from unnest(p_event_ids, p_event_types, p_payloads, p_metadata, p_message_ids, p_occurred_at)
                    as e (event_id, event_type, payload, metadata, message_id, occurred_at)
                on conflict (source_name, event_id) do nothing;
                get diagnostics stored_count = row_count;
        end;
        if stored_count < cardinality(p_event_ids) then
            insert into eventloader.dead_letter (kind, origin, reference, body, reason, detail)
            select 'conflict', p_source_name, e.event_id::text, convert_to(e.payload, 'UTF8'),
                'the inbox already holds this id with another body',
                jsonb_build_object('event_id', e.event_id, 'event_type', e.event_type, 'request_id', p_request_id)
            from unnest(p_event_ids, p_event_types, p_payloads) as e (event_id, event_type, payload)
            cross join lateral (
                select w.request_id, w.payload from eventloader.event_inbox w
                where w.source_name = p_source_name and w.event_id = e.event_id
                offset 0
            ) i
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

call eventloader.grant_roles();
