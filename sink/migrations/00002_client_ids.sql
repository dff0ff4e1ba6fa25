-- +goose Up

-- The worker takes clients' ids in blocks, so that it can write claims without
-- having to ask for the ids of the clients that it has just written. A number
-- of the sequence is the first of its block.
alter table partner_clients alter column id drop identity;
create sequence partner_client_blocks increment by 65536;
select setval('partner_client_blocks', (select coalesce(max(id), 0) + 1 from partner_clients), false);

-- +goose Down

drop sequence partner_client_blocks;
alter table partner_clients alter column id add generated always as identity (cache 64);
select setval('partner_clients_id_seq', (select coalesce(max(id), 0) + 1 from partner_clients), false);
