-- What operators ask: since when a source stands where it stands, whether its events wait in the inbox, and when upkeep was
-- done last. The view gets columns at its end; programs of before go on reading the others.

-- When something that is done now and then was last done to its end.
create table eventloader.upkeep (
    task text primary key,
    done_at timestamptz not null default clock_timestamp()
);

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
    (select count(*) from eventloader.source_gap g where g.source_name = s.source_name) as gap_count,
    case
        when s.paused_at is not null then s.paused_at
        when held.id is not null and not coalesce(in_flight.yes, false)
            then case when held.status = 'reserved' then coalesce(l.expires_at, held.updated_at) else held.updated_at end
        when s.health <> 'ok' then s.health_since
    end as since,
    -- The watermark bounds the search from below: rows that were moved and are not vacuumed yet are not walked over.
    (select i.received_at from eventloader.event_inbox i
     where i.source_name = s.source_name and i.event_id > c.last_stored_id
     order by i.event_id limit 1) as inbox_waiting_since
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

call eventloader.grant_roles();
