-- +goose Up

-- Part of the name of this database's history, for a Postgres that does not tell
-- by itself when it was restored.
create table epoch (
    id   integer primary key default 1 check (id = 1),
    name uuid not null default gen_random_uuid()
);
comment on table epoch is 'One row: after a restore that Postgres does not tell of, intake migrate --new-epoch gives it another name';
insert into epoch default values;

-- +goose Down

drop table epoch;
