-- Upkeep of the request log: an index of what may be pruned, and the monthly partitions of its archive.
--
-- Only finished requests are ever pruned. A row in any other status holds its window: without it the same events could
-- be asked for again. The index holds finished rows alone, so that finding old ones costs as much as there are of them,
-- however many are live.

create index event_request_log_finished
    on eventloader.event_request_log (status, created_at)
    where status in ('succeeded', 'retried', 'skipped');

-- Makes the partition of the archive for the month that holds p_month, unless one covers the month already (by whatever
-- name). Months begin and end in UTC, whatever the session's time zone. Answers its name, and whether it is new.
--
-- Runs with the rights of the schema's owner, so that a member of eventloader_runtime, who may not create anything, can
-- archive. All that a caller chooses is one month of two centuries.
--
-- The table is made apart and then attached: that lets readers of the archive, and those who archive, go on, which
-- `create table … partition of` does not. Whoever makes a partition holds a lock that only others of the kind wait for.
create function eventloader.create_archive_partition(
    p_month date,
    out partition_name text,
    out created boolean
)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
    month_start timestamptz;
    month_end timestamptz;
    grantee text;
begin
    if p_month is null or p_month not between '2000-01-01' and '2199-12-31' then
        raise exception 'the archive has months from 2000-01 to 2199-12, not that of %', p_month
            using errcode = 'invalid_parameter_value';
    end if;
    month_start := date_trunc('month', p_month::timestamptz);
    month_end := month_start + interval '1 month';
    lock table eventloader.event_request_log_archive in share update exclusive mode;

    created := false;
    select c.relname into partition_name
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    cross join lateral regexp_match(
        pg_get_expr(c.relpartbound, c.oid), 'FROM \(''?([^'')]+)''?\) TO \(''?([^'')]+)''?\)') as bound
    where i.inhparent = 'eventloader.event_request_log_archive'::regclass
      and not i.inhdetachpending
      and case bound[1] when 'MINVALUE' then '-infinity' else bound[1]::timestamptz end <= month_start
      and case bound[2] when 'MAXVALUE' then 'infinity' else bound[2]::timestamptz end >= month_end;
    if found then
        return;
    end if;

    partition_name := 'event_request_log_archive_' || to_char(month_start, 'YYYY_MM');
    execute format(
        'create table eventloader.%I (like eventloader.event_request_log_archive including all)', partition_name);
    execute format(
        'alter table eventloader.event_request_log_archive attach partition eventloader.%I for values from (%L) to (%L)',
        partition_name, month_start, month_end);
    for grantee in select r.rolname from pg_roles r where r.rolname = 'eventloader_runtime' loop
        execute format('grant select, insert, update, delete on eventloader.%I to %I', partition_name, grantee);
    end loop;
    for grantee in select r.rolname from pg_roles r where r.rolname = 'eventloader_readonly' loop
        execute format('grant select on eventloader.%I to %I', partition_name, grantee);
    end loop;
    created := true;
end $$;

-- A function with somebody else's rights is not for everybody; grant_roles gives it to eventloader_runtime.
revoke execute on function eventloader.create_archive_partition(date) from public;

call eventloader.grant_roles();
