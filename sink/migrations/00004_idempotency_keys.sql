-- +goose Up

create table idempotency_keys (
    created_at  timestamptz not null default now(),
    lease_until timestamptz not null,
    batch_id    uuid not null,
    partner_id  integer not null,
    key         text collate "C" not null,
    body_hash   bytea not null,
    answer      bytea,
    primary key (partner_id, key)
);
comment on table idempotency_keys is 'Requests with an Idempotency-Key, so that a repeat gets the first answer again';
comment on column idempotency_keys.lease_until is 'until then the front that has the request works on it; without an answer after that, it has died';
comment on column idempotency_keys.body_hash is 'SHA-256 of the body after decompression';
comment on column idempotency_keys.answer is 'the first answer, as the fronts write it down; null until it is given';
create index idempotency_keys_created_at on idempotency_keys using brin (created_at);

-- +goose Down

drop table idempotency_keys;
