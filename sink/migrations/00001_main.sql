-- +goose Up

create table partners (
    id           integer generated always as identity primary key,
    name         text not null unique,
    currency     text not null,
    entity_types text[] not null default '{}',
    secret_hash  bytea not null,
    disabled     boolean not null default false,
    created_at   timestamptz not null default now()
);
comment on column partners.secret_hash is 'SHA-256 of the client secret';

-- The key that the fronts sign access tokens with: one row, made by the first front.
create table signing_keys (
    id         integer primary key default 1 check (id = 1),
    pkcs8      bytea not null,
    created_at timestamptz not null default now()
);

-- Columns of fixed width come first, so that no row holds padding.
create table partner_clients (
    id                bigint generated always as identity (cache 64) primary key,
    client_start_date timestamptz,
    saved_at          timestamptz not null default now(),
    fingerprint       uuid not null,
    batch_id          uuid not null,
    item              integer not null,
    partner_id        integer not null,
    partner_client_id text collate "C" not null,
    entity_type       text not null,
    other_identifiers jsonb,
    constraint partner_clients_key unique (partner_id, partner_client_id)
);
comment on column partner_clients.fingerprint is 'of the item''s data, 128 bits: equal when the data is the same';
comment on column partner_clients.batch_id is 'with item: where the record came from, by which a redelivered batch finds its own rows';
comment on column partner_clients.item is 'position in the batch, from 0';

-- No foreign key: its check for each row costs more than all the rest of the
-- save. Claims are written in the transaction that writes their client.
create table revenue_claims (
    client_id         bigint not null,
    start_date        timestamptz not null,
    end_date          timestamptz not null,
    transaction_count bigint not null,
    position          smallint not null,
    total_amount      numeric(19,4) not null,
    time_period       text not null,
    currency          text not null
);
comment on column revenue_claims.client_id is 'partner_clients.id';
comment on column revenue_claims.position is 'among the claims of the item, from 0';

-- Clients are numbered as they come, so claims lie in the order of client_id,
-- and a block range index finds them at next to no cost for the save.
create index revenue_claims_client on revenue_claims using brin (client_id) with (pages_per_range = 16, autosummarize = on);

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
    finished_at timestamptz not null default now(),
    primary key (batch_id, chunk)
);
comment on table batch_status is 'How each chunk of a batch ended: final, written in the transaction that saves its records';
comment on column batch_status.not_saved is 'the items that are not Completed, with code and text; all others of the chunk are';
comment on column batch_status.withdrawn is 'the request was refused as a whole before anything of the chunk was saved, and nothing of it may be';

create view saved_clients as
select p.name as partner,
       c.partner_client_id,
       c.entity_type,
       count(r.client_id) as claims,
       coalesce(sum(r.total_amount), 0) as total_amount,
       c.batch_id,
       c.item,
       c.saved_at
  from partner_clients c
  join partners p on p.id = c.partner_id
  left join revenue_claims r on r.client_id = c.id
 group by c.id, p.id;

-- +goose Down

drop view saved_clients;
drop table batch_status, revenue_claims, partner_clients, signing_keys, partners;
