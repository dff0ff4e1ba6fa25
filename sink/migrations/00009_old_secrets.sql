-- +goose Up

create table old_secrets (
    partner_id  integer not null references partners on delete cascade,
    secret_hash bytea not null,
    ends_at     timestamptz not null
);
create index old_secrets_partner_id on old_secrets (partner_id);
comment on table old_secrets is 'Client secrets that were replaced, and get tokens until they end';
comment on column old_secrets.secret_hash is 'SHA-256 of the client secret';

-- +goose Down

drop table old_secrets;
