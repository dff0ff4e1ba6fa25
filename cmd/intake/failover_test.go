package main

import (
	"context"
	"net/url"
	"testing"

	"intake/deploy/local"
	"intake/deploy/local/localtest"
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
func TestFailover(t *testing.T) {
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
