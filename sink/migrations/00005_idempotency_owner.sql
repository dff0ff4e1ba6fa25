-- +goose Up

alter table idempotency_keys add column owner uuid;
comment on column idempotency_keys.owner is 'the request that works on it: only that one may refuse its batch';

-- +goose Down

alter table idempotency_keys drop column owner;
