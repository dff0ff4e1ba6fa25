-- +goose Up

-- The claims of a client become one row. Of a row for each claim, two thirds were
-- the header of the row and what all claims of the client have in common, and most
-- of the time of a save went into forming such rows.
--
-- Existing rows stay where they are. The view revenue_claims shows old and new
-- claims alike, as the table of that name did. Workers of the version before go on
-- writing to it.
--
-- The renaming waits for transactions that use the claims, and saves wait behind
-- it, hence the timeout. The rest takes milliseconds.
set local lock_timeout = '5s';

create table client_claims (
    client_id          bigint primary key,
    currency           text not null,
    time_periods       text not null,
    start_days         date[] not null,
    transaction_counts bigint[] not null,
    total_amounts      numeric(19,4)[] not null,
    start_dates        timestamptz[],
    end_dates          timestamptz[]
);
comment on table client_claims is 'The claims of each client that has any; the view revenue_claims has a row for each claim';
comment on column client_claims.client_id is 'partner_clients.id';
comment on column client_claims.time_periods is 'a letter for each claim: M for Monthly, D for Daily';
comment on column client_claims.start_days is 'an element for each claim, like the other arrays, in the order of the item';
comment on column client_claims.start_dates is 'null if each claim begins with its first day (UTC), and ends a millisecond before the period after it begins';

-- Compressing takes longer than it saves.
alter table client_claims
    alter column start_days set storage external,
    alter column transaction_counts set storage external,
    alter column total_amounts set storage external;

-- Before the renaming, as readers lock the view first, too.
create or replace view saved_clients as
select p.name as partner,
       c.partner_client_id,
       c.entity_type,
       count(r.client_id) + coalesce(cardinality(n.total_amounts), 0) as claims,
       coalesce(sum(r.total_amount), 0) + coalesce((select sum(amount) from unnest(n.total_amounts) amount), 0) as total_amount,
       c.batch_id,
       c.item,
       c.saved_at
  from partner_clients c
  join partners p on p.id = c.partner_id
  left join client_claims n on n.client_id = c.id
  left join revenue_claims r on r.client_id = c.id
 group by c.id, p.id, n.client_id;

alter table revenue_claims rename to old_revenue_claims;
alter index revenue_claims_client rename to old_revenue_claims_client;
comment on table old_revenue_claims is 'The claims that versions before schema version 11 have saved';

create view revenue_claims as
select client_id, start_date, end_date, transaction_count, position, total_amount, time_period, currency
  from old_revenue_claims
union all
select c.client_id,
       coalesce(c.start_dates[n], start_day::timestamp at time zone 'UTC'),
       coalesce(c.end_dates[n],
                (start_day + case period when 'M' then interval '1 month' else interval '1 day' end - interval '1 millisecond') at time zone 'UTC'),
       transaction_count,
       (n - 1)::smallint,
       total_amount::numeric(19,4),
       case period when 'M' then 'Monthly' else 'Daily' end,
       c.currency
  from client_claims c
 cross join unnest(c.start_days, c.transaction_counts, c.total_amounts, string_to_array(c.time_periods, null))
       with ordinality claim (start_day, transaction_count, total_amount, period, n);
comment on view revenue_claims is 'A row for each claim';
comment on column revenue_claims.client_id is 'partner_clients.id';
comment on column revenue_claims.position is 'among the claims of the item, from 0';

-- +goose StatementBegin
create function insert_old_revenue_claim() returns trigger
    language plpgsql
as $$
begin
    insert into old_revenue_claims values (new.*);
    return new;
end $$;
-- +goose StatementEnd
comment on function insert_old_revenue_claim is 'inserts what workers write that know no schema version after 10';
create trigger insert_old_revenue_claim instead of insert on revenue_claims
    for each row execute function insert_old_revenue_claim();

-- Processes that run must not be refused until the grants are made anew.
-- +goose StatementBegin
do $$
declare
    reader text;
begin
    for reader in select rolname from pg_roles where rolname in ('intake_front', 'intake_worker') loop
        execute format('grant select on revenue_claims to %I', reader);
    end loop;
    if to_regrole('intake_worker') is not null then
        grant insert on revenue_claims to intake_worker;
    end if;
end $$;
-- +goose StatementEnd

-- +goose Down

insert into old_revenue_claims
select r.* from revenue_claims r join client_claims using (client_id);
drop view revenue_claims, saved_clients;
drop function insert_old_revenue_claim;
drop table client_claims;
alter table old_revenue_claims rename to revenue_claims;
alter index old_revenue_claims_client rename to revenue_claims_client;
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
