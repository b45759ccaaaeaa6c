//! What is asked of PostgreSQL's catalogue.

/// What is known of the id of a table or view. Children that inherit from a table have indexes of their own, so that of
/// the table makes nothing unique; it is taken for a partitioned one.
pub(super) const ID_FACTS: &str = "
select format_type(a.atttypid, a.atttypmod) as type_name,
    case when t.typtype = 'd' then t.typbasetype else t.oid end in (20, 21, 23) as is_integer,
    not a.attnotnull as is_nullable,
    case
        when c.relkind = 'r' and exists (select from pg_catalog.pg_inherits h where h.inhparent = c.oid) then 'p'
        else c.relkind::text
    end as kind,
    exists (
        select from pg_catalog.pg_index i
        where i.indrelid = c.oid and i.indisvalid and i.indkey[0] = a.attnum and i.indpred is null
    ) as is_indexed,
    exists (
        select from pg_catalog.pg_index i
        where i.indrelid = c.oid and i.indisvalid and i.indisunique and i.indimmediate
            and i.indpred is null and i.indnkeyatts = 1 and i.indkey[0] = a.attnum
            and (c.relkind <> 'r' or not exists (select from pg_catalog.pg_inherits h where h.inhparent = c.oid))
    ) as is_unique,
    array(
        select k.attname::text
        from pg_catalog.pg_index i
        cross join unnest(i.indkey::int2[]) with ordinality as p (number, place)
        join pg_catalog.pg_attribute k on k.attrelid = c.oid and k.attnum = p.number
        where i.indrelid = c.oid and i.indisprimary
        order by p.place
    ) as key
from pg_catalog.pg_class c
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_catalog.pg_type t on t.oid = a.atttypid
where c.oid = to_regclass($1) and a.attname = $2";

/// The columns of a table or view, in their order.
pub(super) const COLUMNS: &str = "
select a.attname::text
from pg_catalog.pg_attribute a
where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped
order by a.attnum";

/// The sequences that belong to a column, or that its default draws from.
pub(super) const SEQUENCES: &str = "
select q.seqrelid::regclass::text as name, q.seqcache as cache_size, q.seqincrement as increment
from pg_catalog.pg_sequence q
join pg_catalog.pg_attribute a on a.attrelid = to_regclass($1) and a.attname = $2
where exists (
    select from pg_catalog.pg_depend d
    where d.classid = 'pg_class'::regclass and d.objid = q.seqrelid
        and d.refobjid = a.attrelid and d.refobjsubid = a.attnum
) or exists (
    select from pg_catalog.pg_attrdef f
    join pg_catalog.pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = f.oid
    where f.adrelid = a.attrelid and f.adnum = a.attnum and d.refobjid = q.seqrelid
)";

/// Who writes to what this transaction has read, to what that is a part of, and to its parts; who of those in $1 still
/// runs; and who is prepared. The lock of a writer is `RowExclusiveLock`; system catalogues have oids below 16384.
pub(super) const LOOK: &str = "
with recursive read (oid) as (
    select l.relation
    from pg_catalog.pg_locks l
    where l.pid = pg_backend_pid() and l.locktype = 'relation' and l.relation >= 16384
), upwards (oid) as (
    select oid from read
    union
    select i.inhparent from upwards join pg_catalog.pg_inherits i on i.inhrelid = upwards.oid
), family (oid) as (
    select oid from upwards
    union
    select i.inhrelid from family join pg_catalog.pg_inherits i on i.inhparent = family.oid
), locks as materialized (
    select l.virtualtransaction as transaction, l.relation, l.mode, l.granted, l.database
    from pg_catalog.pg_locks l
)
select transaction,
    bool_or(
        mode = 'RowExclusiveLock' and granted and relation in (select oid from family)
        and database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
    ) as writes
from locks
where transaction is not null
group by transaction
having bool_or(mode = 'RowExclusiveLock') or transaction = any ($1) or transaction like '-1/%'";

/// What of all that this transaction has read, and of the parts of it, is filled from elsewhere: writers of the tables
/// below a materialized view, and of another server, hold no lock on it.
pub(super) const FILLED_FROM_ELSEWHERE: &str = "
with recursive read (oid) as (
    select l.relation
    from pg_catalog.pg_locks l
    where l.pid = pg_backend_pid() and l.locktype = 'relation' and l.relation >= 16384
), parts (oid) as (
    select oid from read
    union
    select i.inhrelid from parts join pg_catalog.pg_inherits i on i.inhparent = parts.oid
)
select c.oid::regclass::text || case c.relkind when 'm' then ' (materialized view)' else ' (foreign table)' end
from parts
join pg_catalog.pg_class c on c.oid = parts.oid
where c.relkind in ('m', 'f')
order by 1";
