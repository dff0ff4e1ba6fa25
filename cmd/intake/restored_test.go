package main

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"intake"
	"intake/internal/local/localtest"
)

// The seen set is ahead of the store: Postgres is put back to an earlier state, as
// from a snapshot, and Redis has seen what it does not hold any more. What was
// lost is Completed when it is sent again; what was not is a Duplicate.
func TestSeenSetAheadOfStore(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	postgres := localtest.OwnPostgres(t)
	s := startStack(t, stackOptions{flags: serverFlags{PostgresURL: postgres.URL()}})
	f := s.fronts[0]
	client := s.client(ctx, f, "acme", s.secret)
	send := func(want ...intake.Code) {
		t.Helper()
		for {
			a, err := post(ctx, client, f, []byte("["+itemOf("kept", 1)+","+itemOf("lost", 1)+"]"), "wait=30")
			if err == nil && a.http == http.StatusOK {
				for i, item := range a.Result {
					if item.Status.Code != want[i] {
						t.Errorf("item %d is %s: %s; want %s", i, item.Status.Code, item.Status.Reason, want[i])
					}
				}
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("no answer: %d %s (%v)", a.http, a.refused.Detail, err)
			}
			<-time.After(50 * time.Millisecond)
		}
	}
	restart := func(while func()) {
		t.Helper()
		postgres.Kill()
		while()
		if err := postgres.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if a, err := post(ctx, client, f, []byte("["+itemOf("kept", 1)+"]"), "wait=30"); err != nil ||
		a.http != http.StatusOK {
		t.Fatalf("%d %s (%v)", a.http, a.refused.Detail, err)
	}
	backup := filepath.Join(localtest.Dir(t), "backup")
	restart(func() {
		if err := postgres.Backup(backup); err != nil {
			t.Error(err)
		}
	})
	marked := func() int {
		keys, err := f.redis.Keys(ctx, "intake:seen:*").Result()
		if err != nil {
			t.Fatal(err)
		}
		return len(keys)
	}
	before := marked()
	send(intake.CodeDuplicateOfSaved, intake.CodeSaved)
	for marked() <= before { // one at least is of this timeline
		<-time.After(10 * time.Millisecond)
	}
	send(intake.CodeDuplicateOfSaved, intake.CodeDuplicateOfSaved)
	restart(func() {
		if err := postgres.Restore(backup); err != nil {
			t.Error(err)
		}
		// A restore takes longer than a front goes on believing what it was told
		// of the timeline: this is how long it takes, not a wait for something.
		<-time.After(4 * time.Second)
	})
	send(intake.CodeDuplicateOfSaved, intake.CodeSaved)
	if n := s.count(t, "select count(*) from partner_clients"); n != 2 {
		t.Errorf("%d records, want 2", n)
	}
}
