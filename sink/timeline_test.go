package sink_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"intake/internal/local/localtest"
	"intake/internal/safety"
	"intake/sink"
)

// The timeline is the same for all who ask, and another one after a restart,
// behind which there may have been a restore.
func TestStore_Timeline(t *testing.T) {
	t.Parallel()
	ctx, postgres := t.Context(), localtest.OwnPostgres(t)
	timeline := func() string {
		t.Helper()
		store, err := sink.Open(ctx, sink.Options{URL: postgres.URL()})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		name, err := store.Timeline(ctx)
		if err != nil || name == "" {
			t.Fatal(name, err)
		}
		return name
	}
	before := timeline()
	if again := timeline(); again != before {
		t.Errorf("%s and %s for the same server", before, again)
	}
	if err := postgres.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if after := timeline(); after == before {
		t.Errorf("%s before and after a restart", before)
	}
}

// As in managed services, functions that return the timeline may be refused: what
// is left of its name is still another one after a restart, and in another epoch.
func TestStore_Timeline_Refused(t *testing.T) {
	t.Parallel()
	postgres := localtest.OwnPostgres(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, _, err := sink.Migrate(ctx, postgres.URL()); err != nil {
		t.Fatal(err)
	}
	run(t, postgres, "create role plain login password 'secret'",
		"grant select on all tables in schema public to plain")
	plain := func() string {
		u, err := url.Parse(postgres.URL())
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword("plain", "secret")
		return u.String()
	}
	store, err := sink.Open(ctx, sink.Options{URL: plain()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	timeline := func() string {
		t.Helper()
		for {
			name, err := store.Timeline(ctx)
			if err == nil {
				return name
			}
			if ctx.Err() != nil {
				t.Fatalf("no timeline: %v", err)
			}
		}
	}
	whole := timeline()
	for _, function := range []string{"pg_control_system()", "pg_current_wal_lsn()"} {
		run(t, postgres, "revoke execute on function "+function+" from public")
	}
	if _, err := store.Timeline(ctx); err == nil {
		t.Error("a right was revoked under an open connection, and it still knows its timeline")
	}
	before := timeline()
	if again := timeline(); again != before || !strings.HasSuffix(whole, before) {
		t.Errorf("%s and then %s, of %s", before, again, whole)
	}
	postgres.Kill()
	if err := postgres.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if after := timeline(); after == before {
		t.Errorf("%s before and after a restart", before)
	}

	run(t, postgres, "revoke execute on function pg_postmaster_start_time() from public")
	_, _ = store.Timeline(ctx)
	before = timeline()
	if err := sink.NewEpoch(ctx, postgres.URL()); err != nil {
		t.Fatal(err)
	}
	if after := timeline(); after == before || after == "" {
		t.Errorf("%q in one epoch, and %q in the next", before, after)
	}
}

// A Timeline is read, not remembered.
func TestStore_Timeline_Read(t *testing.T) {
	t.Parallel()
	ctx, url := t.Context(), localtest.Postgres(t)
	if _, _, err := sink.Migrate(ctx, url); err != nil {
		t.Fatal(err)
	}
	store, err := sink.Open(ctx, sink.Options{URL: url, MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	before, err := store.Timeline(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.NewEpoch(ctx, url); err != nil {
		t.Fatal(err)
	}
	if after, err := store.Timeline(ctx); err != nil || after == before {
		t.Errorf("%s, %v on the same connection, after %s", after, err, before)
	}
}

// pooler returns the URL of a way to Postgres that says of each session what poolers
// say: the key of a session of their own.
func pooler(t *testing.T, postgresURL string) string {
	t.Helper()
	u, err := url.Parse(postgresURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	target := u.Host
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				client.Close()
				return
			}
			t.Cleanup(func() { client.Close(); server.Close() })
			go func() { _, _ = io.Copy(server, client) }()
			go func() {
				defer client.Close()
				for answers := pgproto3.NewFrontend(server, server); ; {
					message, err := answers.Receive()
					if err != nil {
						return
					}
					if key, ok := message.(*pgproto3.BackendKeyData); ok {
						key.ProcessID++
					}
					encoded, err := message.Encode(nil)
					if err != nil {
						return
					}
					if _, err := client.Write(encoded); err != nil {
						return
					}
				}
			}()
		}
	}()
	u.Host = listener.Addr().String()
	return u.String()
}

// A connection through a pooler is refused, with the reason: what is behind it may
// change without its breaking.
func TestStore_Pooler(t *testing.T) {
	t.Parallel()
	ctx, direct := t.Context(), localtest.OwnPostgres(t).URL()
	if _, _, err := sink.Migrate(ctx, direct); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		url            string
		refuse, pooled bool
	}{{direct, true, false}, {pooler(t, direct), true, true}, {pooler(t, direct), false, true}} {
		store, err := sink.Open(ctx, sink.Options{URL: test.url, RefuseUnsafe: test.refuse, NeedSchema: true})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		if err := store.Ping(ctx); (err != nil) != (test.pooled && test.refuse) {
			t.Errorf("%+v: %v", test, err)
		}
		breaches, others := safety.Find(store.Check(ctx))
		if pooled := len(breaches) == 1 && strings.Contains(breaches[0].Error(),
			"one through a pooler"); pooled != test.pooled || others != nil {
			t.Errorf("%+v: %v, %v", test, breaches, others)
		}
	}
}
