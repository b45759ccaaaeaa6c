-- The loading protocol: claim a window, renew its lease, deposit its page, close it without one.
--
-- Each function is one round trip and one transaction. All of them lock the source's lease row first, so that every
-- change of a source's reservation is serialised, and read what they decide on in later statements: in READ COMMITTED a
-- statement that waited for a lock still sees the other tables as they were when it began.
-- The clock is read after the lock, and is always the database's.
--
-- tests/model/ledger.rs states the same rules as pure functions; tests/twin.rs compares the two.

-- Grants the next window of a source, or says why not and for how long (wait_ms, null: until somebody acts).
--
-- outcome:
--   granted    one request may be sent for (source_name, after_id)
--   busy       another instance holds the lease, or is changing it at this moment
--   throttled  the spacing, a Retry-After or a back-off has not passed
--   held       the window's outcome is unknown (failed, orphaned), or its reservation is still open
--   paused     an operator paused the source
--   missing    the source is not registered
--
-- A caller uses a token until a claim with it is granted, and never again. One that lost the reply of a claim is granted
-- the reservation it already has: nothing was sent for it, since the grant never arrived. For the same reason the spacing
-- is not checked again: it was kept when the reservation was made, and nobody has asked the source since.
--
-- A lease that was not given back is one whose holder may have sent its request at any time until a grant is too old,
-- which is less than the time of a lease: the spacing counts from there.
create function eventloader.claim(
    p_source_name text,
    p_owner text,
    p_token uuid,
    p_limit integer,
    p_lease_ttl interval,
    p_min_interval interval,
    p_orphan_grace interval,
    p_orphan_retry_in interval,   -- null: an orphaned window is held for an operator
    p_max_attempts integer,
    out outcome text,
    out request_id bigint,
    out after_id bigint,
    out epoch bigint,
    out attempt integer,
    out empty_streak integer,
    out failure_streak integer,
    out wait_ms bigint,
    out held_status text
)
language plpgsql as $$
declare
    lease eventloader.source_lease;
    rate eventloader.source_rate_limit;
    window_ eventloader.source_cursor;
    live eventloader.event_request_log;
    now_ timestamptz;
    free_at timestamptz;
    is_resumed boolean;
begin
    select * into lease from eventloader.source_lease l
    where l.source_name = p_source_name
    for update skip locked;
    if not found then
        perform 1 from eventloader.source_lease l where l.source_name = p_source_name;
        outcome := case when found then 'busy' else 'missing' end;
        return;
    end if;

    now_ := clock_timestamp();
    if lease.owner <> p_owner and lease.expires_at > now_ then
        outcome := 'busy';
        wait_ms := ceil(extract(epoch from lease.expires_at - now_) * 1000);
        return;
    end if;

    select * into window_ from eventloader.source_cursor c where c.source_name = p_source_name;
    select * into live from eventloader.event_request_log r
    where r.source_name = p_source_name
      and r.after_id = window_.last_requested_id
      and r.status in ('reserved', 'inbox_only', 'failed', 'orphaned');

    -- The holder is gone for longer than the grace: what became of its request is unknown.
    if live.status = 'reserved' and live.token <> p_token then
        if lease.owner is not null and lease.expires_at + p_orphan_grace > now_ then
            outcome := 'held';
            held_status := 'reserved';
            request_id := live.id;
            wait_ms := ceil(extract(epoch from lease.expires_at + p_orphan_grace - now_) * 1000);
            return;
        end if;
        update eventloader.source_lease l
        set owner = null, epoch = l.epoch + 1, expires_at = null
        where l.source_name = p_source_name;
        update eventloader.source_rate_limit l
        set last_request_at = l.last_request_at + p_lease_ttl
        where l.source_name = p_source_name and lease.owner is not null;
        update eventloader.event_request_log r
        set status = 'orphaned',
            error = format('instance %s vanished with the request unanswered', r.owner),
            retry_at = case when r.attempt < p_max_attempts then now_ + p_orphan_retry_in end,
            updated_at = now_
        where r.id = live.id
        returning * into live;
        lease.owner := null;
        lease.epoch := lease.epoch + 1;
    end if;

    if live.status in ('failed', 'orphaned') and live.token <> p_token and live.retry_at <= now_ then
        update eventloader.event_request_log r
        set status = 'retried', closed_by = 'policy on_failure = retry', updated_at = now_
        where r.id = live.id;
        update eventloader.source_cursor c
        set next_attempt = live.attempt + 1
        where c.source_name = p_source_name;
        window_.next_attempt := live.attempt + 1;
        live := null;
    end if;

    is_resumed := coalesce(live.token = p_token and live.status in ('reserved', 'orphaned'), false);
    if live.id is not null and not is_resumed then
        outcome := 'held';
        held_status := live.status;
        request_id := live.id;
        wait_ms := ceil(extract(epoch from live.retry_at - now_) * 1000);
        return;
    end if;

    perform 1 from eventloader.source s where s.source_name = p_source_name and s.paused_at is not null;
    if found then
        outcome := 'paused';
        return;
    end if;

    select * into rate from eventloader.source_rate_limit l where l.source_name = p_source_name;
    free_at := greatest(
        rate.last_request_at + p_min_interval + case when lease.owner is not null then p_lease_ttl else '0' end,
        rate.not_before);
    if free_at > now_ and not is_resumed then
        outcome := 'throttled';
        wait_ms := ceil(extract(epoch from free_at - now_) * 1000);
        return;
    end if;

    update eventloader.source_lease l
    set owner = p_owner, epoch = lease.epoch + 1, expires_at = now_ + p_lease_ttl
    where l.source_name = p_source_name
    returning l.epoch into epoch;
    update eventloader.source_rate_limit l
    set last_request_at = now_
    where l.source_name = p_source_name;
    if not is_resumed then
        insert into eventloader.event_request_log
            (source_name, after_id, limit_count, attempt, status, token, epoch, owner, created_at, updated_at)
        values
            (p_source_name, window_.last_requested_id, p_limit, window_.next_attempt, 'reserved', p_token, epoch,
             p_owner, now_, now_)
        returning event_request_log.id, event_request_log.after_id, event_request_log.attempt
        into request_id, after_id, attempt;
    else
        update eventloader.event_request_log r
        set status = 'reserved', owner = p_owner, epoch = claim.epoch, error = null, retry_at = null, updated_at = now_
        where r.id = live.id;
        request_id := live.id;
        after_id := live.after_id;
        attempt := live.attempt;
    end if;
    empty_streak := rate.empty_streak;
    failure_streak := rate.failure_streak;
    outcome := 'granted';
end $$;

-- Extends a lease that is still held under this epoch; false: it is lost, and no renewal brings it back.
create function eventloader.renew_lease(p_source_name text, p_owner text, p_epoch bigint, p_lease_ttl interval)
returns boolean
language plpgsql as $$
begin
    perform 1 from eventloader.source_lease l where l.source_name = p_source_name for update;
    update eventloader.source_lease l
    set expires_at = clock_timestamp() + p_lease_ttl
    where l.source_name = p_source_name and l.owner = p_owner and l.epoch = p_epoch;
    return found;
end $$;

-- Gives the lease back (if it is still ours) and writes down when the source may be asked again.
-- Spacing counts from the moment the source is known to have had the request, so it needs no assumption about how
-- long the request travelled.
create function eventloader.end_cycle(
    p_source_name text,
    p_owner text,
    p_epoch bigint,
    p_request_known_at timestamptz, -- the request was surely at the source; null: it never was sent
    p_not_before_in interval,       -- null: no back-off
    p_empty_streak integer,         -- null: as before
    p_failure_streak integer        -- null: as before
) returns void
language sql as $$
    update eventloader.source_lease l
    set owner = null, expires_at = null
    where l.source_name = p_source_name and l.owner = p_owner and l.epoch = p_epoch;
    update eventloader.source_rate_limit l
    set last_request_at = greatest(l.last_request_at, p_request_known_at),
        not_before = greatest(l.not_before, clock_timestamp() + p_not_before_in),
        empty_streak = coalesce(p_empty_streak, l.empty_streak),
        failure_streak = coalesce(p_failure_streak, l.failure_streak)
    where l.source_name = p_source_name;
$$;

-- Stores the page of one reservation: inbox rows, bad events, cursor and request state in one transaction.
-- The fence is the reservation (id and token), not the lease: a response that comes after the lease was lost is kept.
--
-- outcome: deposited, empty (the page had no id: the reservation is deleted, so that the tip can be asked again),
--          already (the same deposit was committed before), closed (the reservation was closed meanwhile: refused)
create function eventloader.deposit(
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
            (source_name, event_id, event_type, payload, message_id, occurred_at, request_id)
        select p_source_name, e.event_id, e.event_type, e.payload::jsonb, e.message_id, e.occurred_at, p_request_id
        from unnest(p_event_ids, p_event_types, p_payloads, p_message_ids, p_occurred_at)
            as e (event_id, event_type, payload, message_id, occurred_at)
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

    perform eventloader.end_cycle(
        p_source_name, p_owner, p_epoch, known_at, p_not_before_in, p_empty_streak, 0);
    update eventloader.source s
    set health = 'ok', health_reason = null, health_since = clock_timestamp()
    where s.source_name = p_source_name and s.health <> 'ok';
end $$;

-- Ends a reservation that brought no page. `p_failed` true: the outcome is unknown or the page invalid, the row stays
-- as `failed`. False: nothing was asked, or the source refused to answer, so the row goes and the window can be asked
-- again. An invalid page is kept as a dead letter.
--
-- outcome: failed, released, already, closed
create function eventloader.close_request(
    p_source_name text,
    p_request_id bigint,
    p_token uuid,
    p_owner text,
    p_epoch bigint,
    p_failed boolean,
    p_error text,
    p_retry_in interval,            -- null: held for an operator
    p_page bytea,                   -- the page that was invalid, null where there is none
    p_request_known_for interval,
    p_not_before_in interval,
    p_failure_streak integer,
    p_health text,                  -- null: as before
    out outcome text
)
language plpgsql as $$
declare
    -- Read before anything else, so that neither the wait for locks nor the work counts as spacing.
    known_at timestamptz := clock_timestamp() - p_request_known_for;
    reservation eventloader.event_request_log;
begin
    perform 1 from eventloader.source_lease l where l.source_name = p_source_name for update;
    select * into reservation from eventloader.event_request_log r
    where r.id = p_request_id and r.token = p_token
    for update;
    if reservation.id is null then
        outcome := case when p_failed then 'closed' else 'already' end;
        return;
    elsif reservation.status not in ('reserved', 'orphaned') then
        outcome := case when reservation.status = 'failed' and p_failed then 'already' else 'closed' end;
        if outcome = 'closed' then
            -- The source was asked all the same, its Retry-After holds, and the lease may still be ours.
            perform eventloader.end_cycle(
                p_source_name, p_owner, p_epoch, known_at, p_not_before_in, null, null);
        end if;
        return;
    end if;

    if p_failed then
        update eventloader.event_request_log r
        set status = 'failed', error = p_error, retry_at = clock_timestamp() + p_retry_in,
            updated_at = clock_timestamp()
        where r.id = p_request_id;
        outcome := 'failed';
    else
        delete from eventloader.event_request_log r where r.id = p_request_id;
        outcome := 'released';
    end if;
    if p_page is not null then
        insert into eventloader.dead_letter (kind, origin, reference, body, reason, detail)
        values ('page', p_source_name, 'request ' || p_request_id, p_page, p_error,
            jsonb_build_object('request_id', p_request_id, 'after_id', reservation.after_id))
        on conflict (origin, kind, reference, sha256(body)) where replayed_at is null do nothing;
    end if;
    perform eventloader.end_cycle(
        p_source_name, p_owner, p_epoch, known_at, p_not_before_in, 0, p_failure_streak);
    update eventloader.source s
    set health = p_health, health_reason = p_error,
        health_since = case when s.health = p_health then s.health_since else clock_timestamp() end
    where s.source_name = p_source_name and p_health is not null;
end $$;

-- The payloads that jsonb refuses, by their place in the array (from 1), with PostgreSQL's reason. Asked only after a
-- deposit failed for its data, to set the culprits aside and let their neighbours pass.
create function eventloader.unstorable(p_payloads text[])
returns table (place integer, reason text)
language plpgsql as $$
begin
    -- The variable of the loop is a new one: by the name of the column it would hide it, and answer null.
    for i in 1 .. cardinality(p_payloads) loop
        begin
            perform p_payloads[i]::jsonb;
        exception
            when data_exception or program_limit_exceeded then
                place := i;
                reason := sqlerrm;
                return next;
        end;
    end loop;
end $$;
