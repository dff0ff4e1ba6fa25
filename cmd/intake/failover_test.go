package main

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"intake/internal/local"
	"intake/internal/local/localtest"
)

// A failover is a Postgres that is lost, and its synchronous standby, which takes
// over.
type failover struct{ primary, standby *local.Postgres }

func (f failover) Stop(context.Context) error {
	f.primary.Kill()
	return nil
}

func (f failover) Start(ctx context.Context) error { return f.standby.Promote(ctx) }

// Postgres is lost under load, and a synchronous standby takes over: nothing that
// was Completed is missing, and what was accepted meanwhile is saved.
func TestLong_Failover(t *testing.T) {
	t.Parallel()
	var f failover
	f.primary, f.standby = localtest.PostgresPair(t)
	seen := serverAway(t, stackOptions{flags: serverFlags{PostgresURL: f.url(t)}, fronts: 2, workers: 2}, f, "wait=1")
	if seen.refused > 0 {
		t.Errorf("%d batches were refused: the queue should have taken them", seen.refused)
	}
}

// url is that of whichever takes records.
func (f failover) url(t *testing.T) string {
	t.Helper()
	both, err := url.Parse(f.primary.URL())
	if err != nil {
		t.Fatal(err)
	}
	standby, err := url.Parse(f.standby.URL())
	if err != nil {
		t.Fatal(err)
	}
	both.Host += "," + standby.Host
	both.RawQuery += "&target_session_attrs=read-write"
	return both.String()
}

// The standby is lost while commits wait for it; the worker is restarted, and the
// waits are cancelled, so that what waits becomes visible; then the primary is lost
// too, and the standby, which has none of it, takes over. Nothing was Completed
// that is missing then, and all that was accepted is saved again.
func TestLong_Failover_StandbyBehind(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var servers failover
	servers.primary, servers.standby = localtest.PostgresPair(t)
	s := startStack(t, stackOptions{flags: serverFlags{PostgresURL: servers.url(t)}, none: true})
	f, err := newFrontProcess(ctx, frontCommand{serverFlags: s.flags, Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0",
		PublicURL: "http://intake.test"}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer start(t, f.Run)()
	startWorker := func() (stop func()) {
		w, err := newWorkerProcess(ctx, workerCommand{serverFlags: s.flags, AdminListen: "127.0.0.1:0",
			AckWait: time.Second, ShutdownTimeout: time.Second}, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		return start(t, w.Run)
	}
	stop := startWorker()
	defer func() { stop() }()
	if err := waitReady(ctx, f.health); err != nil {
		t.Fatal(err)
	}
	client := s.client(ctx, f, "acme", s.secret)
	send := func(id, prefer string, want int) string {
		t.Helper()
		a, err := post(ctx, client, f, []byte("["+itemOf(id, 1)+"]"), prefer)
		if err != nil || a.http != want {
			t.Fatalf("%s is answered %d %s (%v), want %d", id, a.http, a.refused.Detail, err, want)
		}
		return a.ID
	}
	send("before", "wait=30", http.StatusOK)

	servers.standby.Kill()
	batches := []string{send("a", "wait=1", http.StatusAccepted), send("b", "wait=1", http.StatusAccepted)}
	notCompleted := func(when string) {
		t.Helper()
		for _, id := range batches {
			if a, err := check(ctx, client, f, id); err != nil || a.Status == "Completed" {
				t.Errorf("%s: status %v (%v) without the standby", when, a.Status, err)
			}
		}
	}
	primary, err := pgx.Connect(ctx, servers.primary.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer primary.Close(ctx)
	waiting := func() (n int) {
		if err := primary.QueryRow(ctx,
			"select count(*) from pg_stat_activity where wait_event = 'SyncRep'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	localtest.Eventually(t, "a commit waits", func() bool { return waiting() > 0 })
	stop()
	if waiting() == 0 {
		t.Error("the commit waits no more when its worker has ended")
	}
	notCompleted("the worker has ended")
	stop = startWorker()
	if _, err := primary.Exec(ctx,
		"select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "what was to wait is visible, and its worker waits again", func() bool {
		var visible bool
		err := primary.QueryRow(ctx,
			"select exists (select from partner_clients where partner_client_id = 'a')").Scan(&visible)
		return err == nil && visible && waiting() > 0
	})
	notCompleted("the wait was cancelled")

	servers.primary.Kill()
	if err := servers.standby.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := servers.standby.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	for _, id := range batches {
		for {
			if a, err := check(ctx, client, f, id); err == nil && a.Status == "Completed" {
				break
			}
			if ctx.Err() != nil {
				t.Fatal("the batches do not become Completed on the standby")
			}
		}
	}
	if n := s.count(t, "select count(*) from partner_clients where partner_client_id in ('a', 'b')"); n != 2 {
		t.Errorf("%d records on the standby, want 2", n)
	}
}

// start runs a process until it is stopped.
func start(t *testing.T, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
