-- The roles and the database of docker-compose.yml. Run once when its Postgres is new; by hand for a Postgres that an older version made
-- ("Upgrade" in deploy/README.md says how). Another time it sets the passwords again, and changes nothing else.
\set ON_ERROR_STOP on
\getenv owner_password POSTGRES_PASSWORD
\getenv worker_password POSTGRES_WORKER_PASSWORD
\getenv front_password POSTGRES_FRONT_PASSWORD

select format('create role %I', name) from unnest('{intake_owner,intake_worker,intake_front}'::text[]) name where to_regrole(name) is null \gexec
alter role intake_owner login password :'owner_password';
alter role intake_worker login password :'worker_password';
alter role intake_front login password :'front_password';
-- The superuser is for people in the container, who need no password there. Nobody else can be it.
alter role intake password null;

-- An image may default to an encoding that can't hold every partner_client_id.
select 'create database intake encoding ''UTF8'' locale ''C'' template template0'
 where not exists (select from pg_database where datname = 'intake') \gexec
alter database intake owner to intake_owner;

-- What the superuser made when it was the owner.
\connect intake
select format('alter table %s owner to intake_owner', c.oid::regclass)
  from pg_class c
 where relnamespace = 'public'::regnamespace and relowner = current_user::regrole
   and (relkind in ('r', 'p', 'v') or relkind = 'S' and not exists (select from pg_depend d where d.objid = c.oid and d.deptype in ('a', 'i')))
\gexec
select format('alter function %s owner to intake_owner', oid::regprocedure)
  from pg_proc
 where pronamespace = 'public'::regnamespace and proowner = current_user::regrole
\gexec
