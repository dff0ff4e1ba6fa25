package sink_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"intake/internal/local/localtest"
	"intake/internal/safety"
	"intake/sink"
)

// No connection is used before the schema is the program's own. One that was is
// used on when it is migrated further: programs are replaced one after the other.
func TestStore_Schema(t *testing.T) {
	t.Parallel()
	ctx, url := t.Context(), localtest.OwnPostgres(t).URL()
	open := func() *sink.Store {
		t.Helper()
		store, err := sink.Open(ctx, sink.Options{URL: url, NeedSchema: true, RefuseUnsafe: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		return store
	}
	store := open()
	wantErr := func(what string, err error, want string, breach bool) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) || errors.As(err, new(*safety.Breach)) != breach {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	wantErr("no schema", store.Ping(ctx), "there is no schema in Postgres yet: run intake migrate", false)
	version, _, err := sink.Migrate(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	exec("create table last as select * from goose_db_version where version_id = (select max(version_id) from goose_db_version)")
	exec("delete from goose_db_version where version_id = (select version_id from last)")
	wantErr("an older schema", store.Ping(ctx), "run intake migrate", false)
	exec("insert into goose_db_version (version_id, is_applied) select version_id, is_applied from last")
	for _, err := range []error{store.Ping(ctx), store.Check(ctx)} {
		if err != nil {
			t.Errorf("the schema of version %d: %v", version, err)
		}
	}
	exec("insert into goose_db_version (version_id, is_applied) values (9999, true)")
	if err := store.Check(ctx); err != nil {
		t.Errorf("a newer schema, under a running program: %v", err)
	}
	store = open()
	wantErr("a newer schema, at the start", store.Ping(ctx), "the version of the schema in Postgres is 9999", true)
	wantErr("a newer schema, at the start", store.Check(ctx), "the version of the schema in Postgres is 9999", true)
}

// A Postgres that may lose records is used only by those who allow it.
func TestStore_RefuseUnsafe(t *testing.T) {
	t.Parallel()
	ctx, url := t.Context(), localtest.Postgres(t) // which doesn't sync
	if _, _, err := sink.Migrate(ctx, url); err != nil {
		t.Fatal(err)
	}
	for _, refuse := range []bool{true, false} {
		store, err := sink.Open(ctx, sink.Options{URL: url, NeedSchema: true, RefuseUnsafe: refuse})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		if err := store.Ping(ctx); (err != nil) != refuse {
			t.Errorf("refused %t: %v", refuse, err)
		}
		breaches, others := safety.Find(store.Check(ctx))
		if len(breaches) != 3 || others != nil {
			t.Errorf("refused %t: found %v and %v, want three breaches", refuse, breaches, others)
		}
	}
}
