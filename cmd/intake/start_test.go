package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"intake/cmd/intake/internal/admin"
	"intake/internal/local/localtest"
	"intake/sink"
)

// A front and a worker that are started before all of their servers, and before
// the schema is there, live, say that they aren't ready, and serve once the rest
// has come.
func TestStart_ServersAway(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	postgres, nats, redis := localtest.OwnPostgres(t), localtest.OwnNATS(t), localtest.OwnRedis(t)
	servers := []server{redis, nats, postgres}
	for _, away := range servers {
		if err := away.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
	s := &stack{flags: serverFlags{PostgresURL: postgres.URL(), NATSURL: nats.URL(), RedisURL: redis.URL(),
		QueueMaxBytes: 256 << 20}}
	f, err := newFrontProcess(ctx, frontCommand{serverFlags: s.flags, Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0",
		PublicURL: "http://intake.test"}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWorkerProcess(ctx, workerCommand{serverFlags: s.flags, AdminListen: "127.0.0.1:0"}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	var processes sync.WaitGroup
	for _, run := range []func(context.Context) error{f.Run, w.Run} {
		processes.Go(func() {
			if err := run(running); err != nil {
				t.Error(err)
			}
		})
	}
	defer processes.Wait()
	defer stop()
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	status := func(url string) int {
		response, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Get(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			return 0
		}
		response.Body.Close()
		return response.StatusCode
	}
	admins := []string{f.url(), "http://" + f.admin.Addr().String(), "http://" + w.admin.Addr().String()}
	for _, admin := range admins {
		if live, ready := status(admin+"/livez"), status(admin+"/readyz"); live != http.StatusOK ||
			ready != http.StatusServiceUnavailable {
			t.Errorf("%s: /livez answers %d, /readyz %d", admin, live, ready)
		}
	}
	for _, away := range servers {
		if err := away.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := sink.Migrate(ctx, s.flags.PostgresURL); err != nil {
		t.Fatal(err)
	}
	s.secret = s.addPartner(t, "acme")
	for _, admin := range admins {
		localtest.Eventually(t, admin+" is ready", func() bool { return status(admin+"/readyz") == http.StatusOK })
	}
	localtest.Eventually(t, "the partner is known", func() bool {
		_, err := credentials(f.url(), "acme", s.secret).Token(ctx)
		return err == nil
	})
	a, err := post(ctx, s.client(ctx, f, "acme", s.secret), f, []byte("["+itemOf("a", 1)+"]"), "wait=30")
	if err != nil || a.http != http.StatusOK || a.Status != "Completed" {
		t.Errorf("answered %+v (%v)", a, err)
	}
}

// A front and a worker that find an older schema than they need say what to do, and
// are ready when it was done.
func TestStart_OldSchema(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	flags := serverFlags{PostgresURL: localtest.Postgres(t), NATSURL: localtest.NATS(t), AllowUnsafe: true}
	version, _, err := sink.Migrate(ctx, flags.PostgresURL)
	if err != nil {
		t.Fatal(err)
	}
	execute(t, flags.PostgresURL, fmt.Sprintf("delete from goose_db_version where version_id = %d", version))
	f, w := runParts(t, flags)
	want := fmt.Sprintf("the schema in Postgres has version %d, and this program needs %d: run intake migrate",
		version-1, version)
	for name, health := range map[string]*admin.Handler{"front": f.health, "worker": w.health} {
		localtest.Eventually(t, "the "+name+" says what to do", func() bool {
			err := health.Ready(ctx)
			return err != nil && strings.Contains(err.Error(), want)
		})
	}
	execute(t, flags.PostgresURL, fmt.Sprintf("insert into goose_db_version (version_id, is_applied) values (%d, true)",
		version))
	if err := waitReady(ctx, f.health, w.health); err != nil {
		t.Error(err)
	}
}

// runParts runs a front and a worker until the test ends.
func runParts(t *testing.T, flags serverFlags) (*frontProcess, *workerProcess) {
	t.Helper()
	var ended <-chan error
	t.Cleanup(func() { // after they were stopped
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	f, w, running := runPartsToTheEnd(t, flags)
	ended = running
	return f, w
}

// runPartsToTheEnd is runParts of two that may end by themselves; with what, can be
// heard.
func runPartsToTheEnd(t *testing.T, flags serverFlags) (*frontProcess, *workerProcess, <-chan error) {
	t.Helper()
	logger := zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))
	f, err := newFrontProcess(t.Context(), frontCommand{serverFlags: flags, Listen: "127.0.0.1:0",
		AdminListen: "127.0.0.1:0", PublicURL: "http://intake.test"}, logger)
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWorkerProcess(t.Context(), workerCommand{serverFlags: flags, AdminListen: "127.0.0.1:0"}, logger)
	if err != nil {
		f.close()
		t.Fatal(err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 2)
	var parts sync.WaitGroup
	parts.Go(func() { ended <- f.Run(running) })
	parts.Go(func() { ended <- w.Run(running) })
	t.Cleanup(func() {
		stop()
		parts.Wait()
	})
	return f, w, ended
}
