-- Stands in for the table of the queue sources until both are merged.
create table eventloader.consumed_message (
    consumer text not null,
    message_id uuid not null,
    body_hash bytea,
    consumed_at timestamptz not null default clock_timestamp(),
    primary key (consumer, message_id)
);
call eventloader.grant_roles();
