-- +goose Up

-- A batch's id begins with the time at which it was named (UUID version 7), so
-- that the ids of a day are a range. A day is a partition, which the workers make
-- in time, and drop when it is old.
alter table batch_status rename to old_batch_status;
alter table old_batch_status rename constraint batch_status_pkey to old_batch_status_pkey;
create table batch_status (
    batch_id    uuid not null,
    chunk       integer not null,
    chunks      integer not null,
    partner_id  integer not null,
    first_item  integer not null,
    items       integer not null,
    completed   integer not null,
    withdrawn   boolean not null default false,
    not_saved   jsonb,
    keys        bytea,
    finished_at timestamptz not null default now(),
    primary key (batch_id, chunk)
) partition by range (batch_id);
comment on table batch_status is 'How each chunk of a batch ended: final, written in the transaction that saves its records';
comment on column batch_status.not_saved is 'the items that are not Completed, with code and text; all others of the chunk are';
comment on column batch_status.withdrawn is 'the request was refused as a whole before anything of the chunk was saved, and nothing of it may be';
comment on column batch_status.keys is 'partner_client_id of each item of the chunk, each with its length in bytes before it as a varint; length 0: none';
alter table batch_status alter column keys set storage external;

-- For batches of a front whose clock is wrong.
create table batch_status_default partition of batch_status default;
insert into batch_status (batch_id, chunk, chunks, partner_id, first_item, items, completed, withdrawn, not_saved, finished_at)
select batch_id, chunk, chunks, partner_id, first_item, items, completed, withdrawn, not_saved, finished_at from old_batch_status;
drop table old_batch_status;

-- +goose StatementBegin
create function first_batch_id(day date) returns uuid
    language sql immutable strict
    return rpad(lpad(to_hex(extract(epoch from day)::bigint * 1000), 12, '0'), 32, '0')::uuid;
-- +goose StatementEnd
comment on function first_batch_id is 'the least id that a batch of a day (UTC) can have';

-- +goose Down

create table old_batch_status (like batch_status including comments);
alter table old_batch_status drop column keys, alter column withdrawn set default false, alter column finished_at set default now(), add constraint batch_status_pkey_1 primary key (batch_id, chunk);
insert into old_batch_status select batch_id, chunk, chunks, partner_id, first_item, items, completed, withdrawn, not_saved, finished_at from batch_status;
drop table batch_status;
drop function first_batch_id;
alter table old_batch_status rename to batch_status;
alter table batch_status rename constraint batch_status_pkey_1 to batch_status_pkey;
