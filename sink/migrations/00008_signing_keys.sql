-- +goose Up

-- There can be several signing keys. A front of an older version goes on with
-- number 1, which it has read.
alter table signing_keys drop constraint signing_keys_id_check;
alter table signing_keys add column signs_from timestamptz not null default now(), add column signs_until timestamptz;
update signing_keys set signs_from = created_at;
comment on column signing_keys.signs_from is 'when the key begins to sign access tokens; fronts publish it, and take its tokens, before';
comment on column signing_keys.signs_until is 'when the next key begins to sign; fronts take the tokens of this one until they have expired';

-- +goose Down

delete from signing_keys where id <> (select id from signing_keys order by signs_from desc limit 1);
update signing_keys set id = 1;
alter table signing_keys drop column signs_from, drop column signs_until, add constraint signing_keys_id_check check (id = 1);
