-- A move reads what it moves, and a deposit of messages what was delivered, whatever the planner knows of the tables.
--
-- A session keeps the plans of these functions. One that was made while the inbox was small may look rows up by their
-- source alone and compare each with the batch; it stays when the inbox has grown, until somebody gathers statistics:
-- with a million rows waiting, a move of a thousand took 12 seconds, and a thousand messages that came again read every
-- mark of their consumer. Bounds by id leave no such plan: whoever reads by the source has to read between them. `offset
-- 0` keeps what is looked up for each row (an id, a message id) from becoming a join that reads the whole stream.
--
-- Nor does a batch hold more than 32 MiB, so that a thousand events of the greatest size do not outlast the time that a
-- statement may take.
--
-- The functions are those of 20261121000001_queues.sql but for these conditions; old and new binaries run on them.

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
            select b.place
            from (
                select w.ctid as place,
                    sum(pg_column_size(w.payload)) over (order by w.event_id rows unbounded preceding)
                        - pg_column_size(w.payload) as bytes_before
                from eventloader.event_inbox w
                where w.source_name = p_source_name
                  and w.event_id > p_above
                  and (w.next_attempt_at is null or w.next_attempt_at <= clock_timestamp())
                order by w.event_id
                limit p_limit
            ) b
            where b.bytes_before < 32 * 1024 * 1024))
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
    -- Not within the block above: a row that one part of a transaction locks and another changes costs a multixact.
    update eventloader.stream h
    set version = moved_to
    where h.stream = p_source_name and h.version < moved_to;
    perform eventloader.advance_stored(p_source_name, moved_to);
    outcome := case when moved_to is null then 'none' else 'moved' end;
end $$;

-- Moves the rows of a batch, which are locked and in id order, as is the head of the stream locked.
create or replace function eventloader.move_rows(
    p_source_name text,
    p_batch bigint[],
    out moved_count integer,
    out duplicate_count integer,
    out conflict_count integer
)
language plpgsql as $$
declare
    first_id bigint := p_batch[1];
    last_id bigint := p_batch[cardinality(p_batch)];
begin
    conflict_count := eventloader.set_conflicts_aside(p_source_name, p_batch);
    perform eventloader.announce_append();
    insert into eventloader.events (stream, version, event_type, payload, metadata, message_id, request_id, occurred_at)
    select i.source_name, i.event_id, i.event_type, i.payload, coalesce(i.metadata, '{}'), i.message_id,
        i.request_id, i.occurred_at
    from eventloader.event_inbox i
    where i.source_name = p_source_name
      and i.event_id between first_id and last_id
      and i.event_id = any (p_batch)
      and not exists (
          select from eventloader.events e where e.stream = p_source_name and e.version = i.event_id
          offset 0)
    order by i.event_id;
    get diagnostics moved_count = row_count;
    delete from eventloader.event_inbox i
    where i.source_name = p_source_name
      and i.event_id between first_id and last_id
      and i.event_id = any (p_batch);
    duplicate_count := cardinality(p_batch) - conflict_count - moved_count;
end $$;

-- Locks the rows of the next batch; what somebody else has locked is passed by. Null: there are none.
create or replace function eventloader.lock_inbox_batch(p_source_name text, p_above bigint, p_limit integer)
returns bigint[]
language sql as $$
    select array_agg(b.event_id order by b.event_id)
    from (
        select l.event_id, sum(l.bytes) over (order by l.event_id rows unbounded preceding) - l.bytes as bytes_before
        from (
            select i.event_id, pg_column_size(i.payload) as bytes
            from eventloader.event_inbox i
            where i.source_name = p_source_name
              and i.event_id > p_above
              and (i.next_attempt_at is null or i.next_attempt_at <= clock_timestamp())
            order by i.event_id
            limit p_limit
            for update skip locked
        ) l
    ) b
    where b.bytes_before < 32 * 1024 * 1024
$$;

-- Takes rows out of a batch whose id, or whose message id, is in `events` already with another body. What came first
-- stays; the other goes to `dead_letter`.
create or replace function eventloader.set_conflicts_aside(p_source_name text, p_batch bigint[]) returns integer
language plpgsql as $$
declare
    first_id bigint := p_batch[1];
    last_id bigint := p_batch[cardinality(p_batch)];
    conflict_count integer;
begin
    with incoming as materialized (
        select i.event_id, i.message_id, e.version is not null as is_stored, e.payload <> i.payload as differs
        from eventloader.event_inbox i
        left join lateral (
            select e.version, e.payload from eventloader.events e
            where e.stream = p_source_name and e.version = i.event_id
            offset 0
        ) e on true
        where i.source_name = p_source_name
          and i.event_id between first_id and last_id
          and i.event_id = any (p_batch)
    ), named as (
        select n.event_id, n.message_id, min(n.event_id) over (partition by n.message_id) as id_given_first
        from incoming n
        where n.message_id is not null and not n.is_stored
    ), conflict as (
        select n.event_id, 'events already holds this id with another body' as reason
        from incoming n
        where n.differs
        union all
        select n.event_id, format('message_id %s is that of another event of this source', n.message_id)
        from named n
        where n.event_id > n.id_given_first
           or exists (
               select from eventloader.events e
               where e.stream = p_source_name and e.message_id = n.message_id
               offset 0)
    ), taken as (
        delete from eventloader.event_inbox i
        where i.source_name = p_source_name
          and i.event_id between first_id and last_id
          and i.event_id = any ((select array_agg(c.event_id) from conflict c)::bigint[])
        returning i as inbox_row, i.event_id
    ), kept as (
        insert into eventloader.dead_letter (kind, origin, reference, body, reason, detail)
        select 'conflict', p_source_name, (t.inbox_row).event_id::text,
            convert_to((t.inbox_row).payload::text, 'UTF8'), c.reason, eventloader.inbox_detail(t.inbox_row)
        from taken t
        join conflict c using (event_id)
        on conflict (origin, kind, reference, sha256(body)) where replayed_at is null do nothing
    )
    select count(*) into conflict_count from taken;
    return conflict_count;
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
declare
    first_id bigint;
    last_id bigint;
    last_stored bigint := (select max(e) from unnest(p_event_ids) e);
begin
    select min(e), max(e) into first_id, last_id from unnest(p_event_ids || p_conflict_ids) e;
    insert into eventloader.dead_letter (kind, origin, reference, body, reason, detail)
    select 'conflict', p_source_name, c.event_id::text, convert_to((l.inbox_row).payload::text, 'UTF8'), c.reason,
        eventloader.inbox_detail(l.inbox_row)
    from unnest(p_conflict_ids, p_conflict_reasons) as c (event_id, reason)
    cross join lateral (
        select i as inbox_row from eventloader.event_inbox i
        where i.source_name = p_source_name and i.event_id = c.event_id
        offset 0
    ) l
    on conflict (origin, kind, reference, sha256(body)) where replayed_at is null do nothing;
    delete from eventloader.event_inbox i
    where i.source_name = p_source_name
      and i.event_id between first_id and last_id
      and i.event_id = any (p_event_ids || p_conflict_ids);
    update eventloader.stream h
    set version = greatest(h.version, last_stored)
    where h.stream = p_source_name;
    perform eventloader.advance_stored(p_source_name, last_stored);
end $$;

-- The first half, called in the other database: stores rows, in the order of their versions, under the same key, so that
-- a repeated call changes nothing. Answers the rows that are not added: those that are there already (reason null), and
-- those that conflict with what is there.
create or replace function eventloader.store_rows(
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
            left join lateral (
                select e.version, e.payload from eventloader.events e
                where e.stream = p_stream and e.version = i.version
                offset 0
            ) e on true
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
               or exists (
                   select from eventloader.events e
                   where e.stream = p_stream and e.message_id = n.message_id
                   offset 0)
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

-- Stores what a queue source delivered for one stream: inbox rows, dead letters, gaps and cursor in one transaction. See
-- 20261121000001_queues.sql. What comes again is looked up message by message.
create or replace function eventloader.deposit_messages(
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

    -- In the order of their ids, as everybody marks those of one stream. `on conflict` costs every row as much again; a
    -- delivery of which something came before is rare.
    begin
        insert into eventloader.consumed_message (consumer, message_id, body_hash)
        select p_source_name, m.message_id, m.body_hash
        from unnest(p_message_ids, p_body_hashes) as m (message_id, body_hash)
        where m.message_id is not null
        order by m.message_id;
        fresh := array_remove(p_message_ids, null);
    exception
        when unique_violation then
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
    end;

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
            cross join lateral (
                select c.body_hash from eventloader.consumed_message c
                where c.consumer = p_source_name and c.message_id = m.message_id
                offset 0
            ) l
            where m.id_rank > 1 or not m.message_id = any (fresh)
            union all
            select m.place, 2,
                coalesce(i.payload, e.payload, m.first_payload::jsonb) <> m.payload::jsonb
                or eventloader.broker_marks(coalesce(i.metadata, e.metadata, m.first_metadata::jsonb))
                    is distinct from eventloader.broker_marks(m.metadata::jsonb),
                format('version %s came before with another body', m.version)
            from incoming m
            left join lateral (
                select r.event_id, r.payload, r.metadata from eventloader.event_inbox r
                where r.source_name = p_stream and r.event_id = m.version
                offset 0
            ) i on true
            left join lateral (
                select r.version, r.payload, r.metadata from eventloader.events r
                where r.stream = p_stream and r.version = m.version
                offset 0
            ) e on true
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
