-- What fronts and workers may do, who are the roles intake_front and intake_worker
-- or members of them. All else is for the owner of the schema. Migrate runs this
-- each time, so that nobody keeps a right that this does not give.
do $$
declare
    relation regclass;
    reader text;
begin
    for reader in select rolname from pg_roles where rolname in ('intake_front', 'intake_worker') loop
        execute format('grant usage on schema %I to %I', current_schema(), reader);
        for relation in
            select oid from pg_class
             where relnamespace = current_schema()::regnamespace and relkind in ('r', 'p', 'v') and pg_has_role(relowner, 'usage')
        loop
            execute format('revoke all on %s from %I', relation, reader);
            continue when relation in ('partners'::regclass, 'old_secrets'::regclass, 'signing_keys'::regclass)
                       or relation in (select inhrelid from pg_inherits where inhparent = 'batch_status'::regclass);
            execute format('grant select on %s to %I', relation, reader);
        end loop;
    end loop;

    if to_regrole('intake_front') is not null then
        grant select on partners, old_secrets, signing_keys to intake_front;
        grant insert on batch_status to intake_front; -- a batch that is withdrawn
        grant insert, update, delete on idempotency_keys to intake_front;
    end if;

    if to_regrole('intake_worker') is not null then
        grant select (id, name) on partners to intake_worker;
        grant insert on partner_clients, client_claims, batch_status to intake_worker;
        grant insert on revenue_claims, old_revenue_claims to intake_worker; -- workers of schema version 10
        grant usage on sequence partner_client_blocks to intake_worker;
        grant select, delete on batch_status_default to intake_worker;
        grant delete on idempotency_keys to intake_worker;
        grant execute on function make_status_partition, drop_status_partition to intake_worker;
    end if;
end $$;
