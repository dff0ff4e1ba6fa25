package sink_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"intake"
	"intake/internal/local/localtest"
	"intake/sink"
)

// freezing returns the URL of a proxy of Postgres that stops forwarding for good, as a
// stopped process would, once Postgres has agreed to a COPY. The
// connection stays open.
func freezing(t *testing.T, postgresURL string) (through string, frozen *atomic.Bool) {
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
	frozen = new(atomic.Bool)
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
			go func() { _, _ = io.Copy(client, server) }()
			go func() {
				buffer := make([]byte, 1<<20)
				for {
					n, err := client.Read(buffer)
					if at := bytes.Index(buffer[:n], []byte("PGCOPY\n")); at >= 0 {
						_, _ = server.Write(buffer[:at-5]) // all but the first CopyData
						frozen.Store(true)
						return
					}
					if _, werr := server.Write(buffer[:n]); err != nil || werr != nil {
						return
					}
				}
			}()
		}
	}()
	u.Host = listener.Addr().String()
	return u.String(), frozen
}

// A worker that is stopped in the middle of its COPY must not keep another one
// from the keys it holds for longer than the statement timeout allows.
func TestStore_SaveStoppedWithinCopy(t *testing.T) {
	t.Parallel()
	ctx, direct := t.Context(), localtest.Postgres(t)
	if _, _, err := sink.Migrate(ctx, direct); err != nil {
		t.Fatal(err)
	}
	through, frozen := freezing(t, direct)
	stopped, err := sink.Open(ctx, sink.Options{URL: through, StatementTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	other, err := sink.Open(ctx, sink.Options{URL: direct, StatementTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	conn, err := pgx.Connect(ctx, direct)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })

	c := chunk(client(0, "a", 1, january(1, 1)))
	saveCtx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = stopped.Save(saveCtx, []*intake.Chunk{c})
	}()
	defer func() { cancel(); <-done; stopped.Close() }()
	localtest.Eventually(t, "the worker is stopped within its COPY", frozen.Load)
	deadline := time.Now().Add(45 * time.Second)
	for {
		_, err := other.Save(ctx, []*intake.Chunk{c})
		if err == nil {
			break
		}
		var state string
		_ = conn.QueryRow(ctx, `select string_agg(state || '/' || coalesce(wait_event, '-') || '/' || (now() - xact_start)::text, ', ')
			from pg_stat_activity where application_name = 'intake' and datname = current_database()`).Scan(&state)
		t.Logf("%v; sessions: %s", err, state)
		if time.Now().After(deadline) {
			t.Fatal("the keys of a stopped worker are held for ever")
		}
	}
	if n := count(t, conn, "select count(*) from revenue_claims"); n != 1 {
		t.Errorf("%d claims", n)
	}
}
