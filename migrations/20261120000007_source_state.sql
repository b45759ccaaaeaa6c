-- Sources that say where they stand in words of their own, such as the STATE of a Singer tap: the state is stored in the
-- transaction of the events that came with it, and handed to the next request. So neither is ever ahead of the other.
--
-- Claims and deposits of sources without a state stay as they were; binaries from before this file can run beside it.

-- `json` keeps the text as it was given; `jsonb` would not keep its numbers, keys and order.
alter table eventloader.source_cursor add column state json;

-- `eventloader.claim`, and the state that the granted window begins at. It is read in a statement of its own, under the
-- lease row's lock that the claim took: no deposit can come between.
create function eventloader.claim_with_state(
    p_source_name text,
    p_owner text,
    p_token uuid,
    p_limit integer,
    p_lease_ttl interval,
    p_min_interval interval,
    p_orphan_grace interval,
    p_orphan_retry_in interval,
    p_max_attempts integer,
    out outcome text,
    out request_id bigint,
    out after_id bigint,
    out epoch bigint,
    out attempt integer,
    out empty_streak integer,
    out failure_streak integer,
    out wait_ms bigint,
    out held_status text,
    out state text
)
language plpgsql as $$
begin
    select c.outcome, c.request_id, c.after_id, c.epoch, c.attempt, c.empty_streak, c.failure_streak, c.wait_ms,
        c.held_status
    into outcome, request_id, after_id, epoch, attempt, empty_streak, failure_streak, wait_ms, held_status
    from eventloader.claim(p_source_name, p_owner, p_token, p_limit, p_lease_ttl, p_min_interval, p_orphan_grace,
        p_orphan_retry_in, p_max_attempts) c;
    if outcome = 'granted' then
        select c.state into state from eventloader.source_cursor c where c.source_name = p_source_name;
    end if;
end $$;

-- `eventloader.deposit`, and the state that the page ended at. Whatever refuses the page (the fence is the reservation)
-- refuses the state; an empty page may bring one too.
create function eventloader.deposit_with_state(
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
    p_state text,
    out outcome text,
    out status text,
    out conflict_count integer
)
language plpgsql as $$
begin
    select d.outcome, d.status, d.conflict_count
    into outcome, status, conflict_count
    from eventloader.deposit(p_source_name, p_request_id, p_token, p_owner, p_epoch, p_max_id, p_event_ids,
        p_event_types, p_payloads, p_message_ids, p_occurred_at, p_bad_references, p_bad_bodies, p_bad_reasons,
        p_bad_details, p_request_known_for, p_not_before_in, p_empty_streak) d;
    if outcome in ('deposited', 'empty') then
        update eventloader.source_cursor c
        set state = p_state::json, updated_at = clock_timestamp()
        where c.source_name = p_source_name;
    end if;
end $$;

call eventloader.grant_roles();
