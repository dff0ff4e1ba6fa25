package main

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"intake/deploy/local/localtest"
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
	s := &stack{flags: serverFlags{PostgresURL: postgres.URL(), NATSURL: nats.URL(), RedisURL: redis.URL(), QueueMaxBytes: 256 << 20}}
	f, err := newFrontProcess(ctx, frontCommand{serverFlags: s.flags, Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", PublicURL: "http://intake.test"}, zap.NewNop())
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
		if live, ready := status(admin+"/livez"), status(admin+"/readyz"); live != http.StatusOK || ready != http.StatusServiceUnavailable {
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
		eventually(t, admin+" is ready", func() bool { return status(admin+"/readyz") == http.StatusOK })
	}
	eventually(t, "the partner is known", func() bool {
		_, err := credentials(f.url(), "acme", s.secret).Token(ctx)
		return err == nil
	})
	a, err := post(ctx, s.client(ctx, f, "acme", s.secret), f, []byte("["+itemOf("a", 1)+"]"), "wait=30")
	if err != nil || a.http != http.StatusOK || a.Status != "Completed" {
		t.Errorf("answered %+v (%v)", a, err)
	}
}
