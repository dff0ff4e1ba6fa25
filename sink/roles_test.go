package sink_test

import (
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"intake"
	"intake/internal/local/localtest"
	"intake/sink"
)

func openAs(t *testing.T, url string) *sink.Store {
	t.Helper()
	store, err := sink.Open(t.Context(), sink.Options{URL: url, RefuseUnsafe: true, NeedSchema: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	if err := errors.Join(store.Ping(t.Context()), store.Check(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Timeline(t.Context()); err != nil {
		t.Fatal(err)
	}
	return store
}

// Owner, worker and front can do what they must, and nothing else.
func TestRoles(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	ownerURL, workerURL, frontURL := localtest.PostgresRoles(t)
	for range 2 { // the second time nothing is new
		if _, _, err := sink.Migrate(ctx, ownerURL); err != nil {
			t.Fatal(err)
		}
	}
	if missing, err := sink.MissingRoles(ctx, ownerURL); err != nil || len(missing) > 0 {
		t.Errorf("missing: %v %v", missing, err)
	}
	owner, worker, front := openAs(t, ownerURL), openAs(t, workerURL), openAs(t, frontURL)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}

	_, err := owner.AddPartner(ctx, intake.Partner{Name: "acme", Currency: "GBP"}, sha256.Sum256(nil))
	must(err)
	_, err = owner.RotateSecret(ctx, "acme", [32]byte{1}, time.Hour)
	must(err)
	_, err = owner.RotateKey(ctx, time.Hour)
	must(err)

	must(worker.TidyStatus(ctx))
	save(t, worker, chunk(client(0, "a", 1, january(1, 1))))
	save(t, worker, chunk(client(0, "a", 1), client(1, "b", 1))) // not boldly
	must(sink.TidyStatusAt(worker, ctx, time.Now().AddDate(0, 0, 40)))
	_, _, err = worker.KeysAfter(ctx, intake.SavedKey{}, 10)
	must(err)
	_, err = worker.EstimateRecords(ctx)
	must(err)

	partners, err := front.Partners(ctx)
	must(err)
	if len(partners) != 1 || len(partners[0].OldSecretHashes) != 1 {
		t.Errorf("the front reads %+v", partners)
	}
	_, _, err = front.SigningKeys(ctx)
	must(err)
	_, _, ok, err := front.Record(ctx, 1, "a")
	must(err)
	if !ok {
		t.Error("the front finds no record")
	}
	_, err = front.Records(ctx, 1, []string{"a"})
	must(err)
	batch := uuid.Must(uuid.NewV7())
	holder := intake.Holder{Key: "k", Owner: batch}
	_, err = front.Reserve(ctx, 1, "k", [32]byte{1}, batch, time.Minute)
	must(err)
	must(front.Renew(ctx, 1, holder, time.Minute))
	withdrawn := chunk(client(0, "c", 1))
	withdrawn.Batch = batch
	if ok, err := front.Withdraw(ctx, []*intake.Chunk{withdrawn}, &holder); !ok || err != nil {
		t.Errorf("withdrawn: %v %v", ok, err)
	}
	must(front.Release(ctx, 1, holder))
	_, err = front.Reserve(ctx, 1, "k2", [32]byte{1}, batch, time.Minute)
	must(err)
	_, err = front.Finished(ctx, 1, batch)
	must(err)

	for url, statements := range map[string][]string{
		workerURL: {
			"select secret_hash from partners", "select currency from partners", "select from old_secrets",
			"select from signing_keys",
			"insert into partners (name, currency, secret_hash) values ('x', 'GBP', '')",
			"update partners set disabled = true",
			"insert into signing_keys (id, pkcs8) values (9, '')", "delete from signing_keys",
			"update partner_clients set entity_type = 'x'", "delete from partner_clients", "truncate partner_clients",
			"delete from client_claims", "delete from old_revenue_claims", "drop view revenue_claims",
			"update batch_status set completed = 0", "delete from batch_status", "drop table batch_status",
			"alter table batch_status add x int",
			"create table x ()", "create function x() returns int language sql as 'select 1'",
			"update goose_db_version set version_id = 1",
			"update idempotency_keys set answer = ''",
			"copy partners to program 'true'", "copy batch_status to '/tmp/x'",
			"select pg_read_file('postgresql.conf')",
			"set role intake_owner", "create role x",
		},
		frontURL: {
			"insert into partners (name, currency, secret_hash) values ('x', 'GBP', '')",
			"update partners set secret_hash = ''", "delete from partners",
			"insert into signing_keys (id, pkcs8) values (9, '')", "delete from signing_keys",
			"insert into old_secrets values (1, '', now())",
			"insert into partner_clients (id) values (1)", "update partner_clients set entity_type = 'x'",
			"delete from partner_clients",
			"insert into revenue_claims (client_id) values (1)",
			"insert into old_revenue_claims (client_id) values (1)",
			"insert into client_claims (client_id) values (1)", "delete from client_claims",
			"select nextval('partner_client_blocks')",
			"update batch_status set completed = 0", "delete from batch_status", "drop table idempotency_keys",
			"truncate idempotency_keys",
			"select make_status_partition('2020-01-01')", "select drop_status_partition('2020-01-01')",
			"create table x ()", "update goose_db_version set version_id = 1",
			"copy partners to program 'true'", "select pg_read_file('postgresql.conf')", "set role intake_owner",
			"create role x",
		},
		ownerURL: {
			"copy partners to program 'true'", "copy partners to '/tmp/x'", "select pg_read_file('postgresql.conf')",
			"alter role intake_front superuser", "create role x",
		},
	} {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		for _, statement := range statements {
			_, err := conn.Exec(ctx, statement)
			if refusal := (*pgconn.PgError)(nil); !errors.As(err, &refusal) || refusal.Code != "42501" {
				t.Errorf("%s: %q is not refused: %v", conn.Config().User, statement, err)
			}
		}
	}
	checkGrantsKept(t, ownerURL, frontURL)
}

// checkGrantsKept checks that a right that someone has given is taken back by Migrate.
func checkGrantsKept(t *testing.T, ownerURL, frontURL string) {
	t.Helper()
	ctx := t.Context()
	owner, err := pgx.Connect(ctx, ownerURL)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close(ctx)
	front, err := pgx.Connect(ctx, frontURL)
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close(ctx)
	const other = "grant delete, update (disabled) on partners to intake_front; revoke select on partners from intake_front"
	if _, err := owner.Exec(ctx, other); err != nil {
		t.Fatal(err)
	}
	if _, _, err := sink.Migrate(ctx, ownerURL); err != nil {
		t.Fatal(err)
	}
	if n := count(t, front, "select count(*) from partners"); n != 1 {
		t.Errorf("the front sees %d partners", n)
	}
	for _, statement := range []string{"delete from partners", "update partners set disabled = true"} {
		if _, err := front.Exec(ctx, statement); err == nil {
			t.Errorf("%q is not refused after Migrate", statement)
		}
	}
}
