-- +goose Up

-- Only its owner can make and drop a partition. Workers do so by these, and need
-- not own anything.

-- +goose StatementBegin
create function make_status_partition(day date) returns void
    language plpgsql security definer
as $$
declare
    name text := 'batch_status_' || to_char(day, 'YYYYMMDD');
begin
    if to_regclass(name) is not null then
        return;
    end if;
    execute format('create table %I (like batch_status including all)', name);
    -- What came when there was no partition lies in the default one.
    execute format('with moved as (
                        delete from batch_status_default where batch_id >= %L and batch_id < %L returning *)
                    insert into %I select * from moved', first_batch_id(day), first_batch_id(day + 1), name);
    execute format('alter table batch_status attach partition %I for values from (%L) to (%L)',
                   name, first_batch_id(day), first_batch_id(day + 1));
end $$;
-- +goose StatementEnd
comment on function make_status_partition is 'makes the partition of batch_status of a day (UTC), if there is none';

-- +goose StatementBegin
create function drop_status_partition(day date) returns void
    language plpgsql security definer
as $$
declare
    name text := 'batch_status_' || to_char(day, 'YYYYMMDD');
    young boolean;
begin
    if to_regclass(name) is null then
        return;
    end if;
    execute format('lock table %I in share mode', name);
    execute format('select exists (select from %I where finished_at >= clock_timestamp() - interval ''30 days'')', name) into young;
    if not young then
        execute format('drop table %I', name);
    end if;
end $$;
-- +goose StatementEnd
comment on function drop_status_partition is 'drops the partition of batch_status of a day (UTC), if nothing in it is younger than 30 days';

-- Whoever calls them must not choose what the names in them mean.
-- +goose StatementBegin
do $$ begin
    execute format('alter function make_status_partition set search_path = %I, pg_temp', current_schema());
    execute format('alter function drop_status_partition set search_path = %I, pg_temp', current_schema());
end $$;
-- +goose StatementEnd
revoke execute on function make_status_partition, drop_status_partition from public;

-- +goose Down

drop function make_status_partition, drop_status_partition;
