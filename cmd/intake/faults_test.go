package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"intake"
	"intake/internal/local/localtest"
)

// A server that can be taken away and brought back.
type server interface {
	Stop(context.Context) error
	Start(context.Context) error
}

// Each server in turn is stopped for five seconds under load. Nobody gets a
// wrong state, and what was accepted is saved when it is back.
func TestServerAway(t *testing.T) {
	t.Parallel()
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		postgres := localtest.OwnPostgres(t)
		seen := serverAway(t, stackOptions{flags: serverFlags{PostgresURL: postgres.URL()}, fronts: 2, workers: 2},
			postgres, "wait=1")
		if seen.refused > 0 {
			t.Errorf("%d batches were refused: the queue should have taken them", seen.refused)
		}
		if len(seen.pending) == 0 {
			t.Error("no item was pending while Postgres was away")
		}
	})
	t.Run("nats", func(t *testing.T) {
		t.Parallel()
		nats := localtest.OwnNATS(t)
		seen := serverAway(t, stackOptions{flags: serverFlags{NATSURL: nats.URL()}, fronts: 2, workers: 2}, nats,
			"wait=1")
		if seen.refused == 0 {
			t.Error("no batch was refused while NATS was away")
		}
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		redis := localtest.OwnRedis(t)
		seen := serverAway(t, stackOptions{flags: serverFlags{RedisURL: redis.URL()}, fronts: 2, workers: 2}, redis,
			"wait=30")
		if seen.refused > 0 || len(seen.pending) > 0 {
			t.Errorf("%d batches were refused, %d items were pending: Redis should not be needed", seen.refused,
				len(seen.pending))
		}
	})
}

// What the clients saw.
type observations struct {
	prefer string

	mu        sync.Mutex
	completed []string
	pending   []string
	notSaved  []string // of refused batches
	refused   int
	unknown   int // batches without an answer
	other     []string
}

func serverAway(t *testing.T, opts stackOptions, away server, prefer string) *observations {
	t.Helper()
	s := startStack(t, opts)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	seen := &observations{prefer: prefer + ", return=minimal"}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for n := range 8 {
		f := s.fronts[n%len(s.fronts)]
		client := s.client(ctx, f, "acme", s.secret)
		clients.Go(func() {
			for batch := 0; ; batch++ {
				select {
				case <-stop:
					return
				case <-ctx.Done():
					return
				default:
				}
				seen.send(ctx, client, f, fmt.Sprintf("%d-%d", n, batch))
			}
		})
	}
	seen.waitForMore(t, ctx)
	if err := away.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	// This is how long the server is away, not a wait for something.
	<-time.After(5 * time.Second)
	if err := away.Start(ctx); err != nil {
		t.Fatal(err)
	}
	seen.waitForMore(t, ctx)
	close(stop)
	clients.Wait()
	if ctx.Err() != nil {
		t.Fatal("the load did not end in time")
	}
	s.settled(t, ctx, seen)
	return seen
}

// send sends a batch of new clients and notes what is said of them.
func (o *observations) send(ctx context.Context, client *http.Client, f *frontProcess, name string) {
	const items = 20
	body := []byte{'['}
	ids := make([]string, items)
	for i := range items {
		ids[i] = fmt.Sprintf("%s-%d", name, i)
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, itemOf(ids[i], 1)...)
	}
	a, err := post(ctx, client, f, append(body, ']'), o.prefer)
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err != nil:
		o.unknown++
	case a.http == http.StatusServiceUnavailable:
		o.refused++
		o.notSaved = append(o.notSaved, ids...)
	case a.http != http.StatusOK && a.http != http.StatusAccepted:
		o.other = append(o.other, fmt.Sprintf("status %d: %s", a.http, a.refused.Detail))
	default:
		for i, item := range a.Result {
			switch item.Status.Code {
			case intake.CodeSaved:
				o.completed = append(o.completed, ids[i])
			case intake.CodePending:
				o.pending = append(o.pending, ids[i])
			default:
				o.other = append(o.other, fmt.Sprintf("%s is %s: %s", ids[i], item.Status.Code, item.Status.Reason))
			}
		}
	}
}

// waitForMore waits until a good number of items more are Completed.
func (o *observations) waitForMore(t *testing.T, ctx context.Context) {
	t.Helper()
	count := func() int {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.completed)
	}
	want := count() + 1_000
	for count() < want {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%d items are Completed, waited for %d", count(), want)
		}
	}
}

// settled waits until all that was accepted is saved, and checks that nothing
// else is: no record of a refused batch, none twice.
func (s *stack) settled(t *testing.T, ctx context.Context, seen *observations) {
	t.Helper()
	if len(seen.other) > 0 {
		t.Fatalf("%d wrong answers, the first: %s", len(seen.other), seen.other[0])
	}
	accepted := slices.Concat(seen.completed, seen.pending)
	for {
		n := s.count(t, "select count(*) from saved_clients where partner_client_id = any($1) and claims = 1", accepted)
		if n == len(accepted) {
			break
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%d records of %d that were accepted", n, len(accepted))
		}
	}
	if n := s.count(t, "select count(*) from partner_clients where partner_client_id = any($1)", seen.notSaved); n > 0 {
		t.Errorf("%d records of batches that were refused", n)
	}
	if n := s.count(t, "select count(*) from partner_clients"); n > len(accepted)+20*seen.unknown {
		t.Errorf("%d records, %d were accepted and %d batches had no answer", n, len(accepted), seen.unknown)
	}
	t.Logf("%d Completed, %d pending first, %d batches refused, %d without an answer", len(seen.completed),
		len(seen.pending), seen.refused, seen.unknown)
}
