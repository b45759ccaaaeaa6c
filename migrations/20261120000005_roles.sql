-- Three group roles, for those who do not want to run everything as the owner. Roles belong to the whole server, so
-- another database may have made them already; a migrating user who may not create roles leaves them out, and the
-- README says how to add them by hand. Granted to a login role with: grant eventloader_runtime to my_user.
do $$
declare
    role_name text;
    may_create boolean := (select r.rolsuper or r.rolcreaterole from pg_roles r where r.rolname = current_user);
begin
    foreach role_name in array array['eventloader_owner', 'eventloader_runtime', 'eventloader_readonly'] loop
        if may_create and not exists (select from pg_roles r where r.rolname = role_name) then
            begin
                execute format('create role %I nologin', role_name);
            exception
                -- Another database of this server made it at the same moment.
                when duplicate_object or unique_violation then null;
            end;
        end if;
    end loop;
end $$;

-- Gives the three roles their rights on everything in the schema. Later migrations call it again after adding tables.
-- Everything becomes the property of eventloader_owner, so that each of its members can apply the next migration;
-- where the migrating user may not give it away, it stays with that user.
create procedure eventloader.grant_roles()
language plpgsql as $$
declare
    hand_over text;
begin
    if exists (select from pg_roles r where r.rolname = 'eventloader_owner') then
        grant all on schema eventloader to eventloader_owner;
        begin
            for hand_over in
                select format('alter table %s owner to eventloader_owner', c.oid::regclass)
                from pg_class c
                where c.relnamespace = 'eventloader'::regnamespace and c.relkind in ('r', 'p', 'v')
                union all
                select format('alter routine %s owner to eventloader_owner', p.oid::regprocedure)
                from pg_proc p
                where p.pronamespace = 'eventloader'::regnamespace
                union all
                select 'alter schema eventloader owner to eventloader_owner'
            loop
                execute hand_over;
            end loop;
        exception
            when insufficient_privilege then null;
        end;
    end if;
    if exists (select from pg_roles r where r.rolname = 'eventloader_runtime') then
        grant usage on schema eventloader to eventloader_runtime;
        grant select, insert, update, delete on all tables in schema eventloader to eventloader_runtime;
        grant usage, select on all sequences in schema eventloader to eventloader_runtime;
        grant execute on all functions in schema eventloader to eventloader_runtime;
        revoke update, delete on eventloader.events, eventloader.audit_log from eventloader_runtime;
        revoke insert, update, delete on eventloader._sqlx_migrations from eventloader_runtime;
    end if;
    if exists (select from pg_roles r where r.rolname = 'eventloader_readonly') then
        grant usage on schema eventloader to eventloader_readonly;
        grant select on all tables in schema eventloader to eventloader_readonly;
        grant select on all sequences in schema eventloader to eventloader_readonly;
    end if;
end $$;
call eventloader.grant_roles();
