package dedupe_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"intake"
	"intake/dedupe"
)

// These tests are about time, and run on the bubble's clock: a sleep in them
// takes none.

// A scripted Redis is asked without a network, which a bubble can't wait for.
type scripted struct {
	mu    sync.Mutex
	asked []string // guarded by mu; the first key of each ask
	fail  func(context.Context) error

	perKey time.Duration // what a key costs it
}

func (r *scripted) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (r *scripted) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (r *scripted) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		r.mu.Lock()
		r.asked = append(r.asked, *cmds[0].Args()[1].(*string))
		r.mu.Unlock()
		if r.fail != nil {
			if err := r.fail(ctx); err != nil {
				return err
			}
		}
		for _, cmd := range cmds {
			fingerprint := key("", 1).Fingerprint
			cmd.(*redis.StringCmd).SetVal(string(fingerprint[:]))
			select {
			case <-time.After(r.perKey):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}
}

// bubble runs a test on a clock of its own, 100 ms behind the full second at
// which the timeline was read.
func bubble(t *testing.T, test func(*testing.T, *seenSet, *scripted)) {
	t.Parallel()
	client := newClient(t, "redis://127.0.0.1:1")
	r := &scripted{}
	client.AddHook(r)
	synctest.Test(t, func(t *testing.T) {
		s := newSeenSet(t, client, 0)
		time.Sleep(100 * time.Millisecond)
		test(t, s, r)
	})
}

var errAway = errors.New("away")

// The timeline that was read is good for three seconds. When the data store says
// no more which one it is in, nobody is asked, for it may be another one.
func TestSeenSet_Lease(t *testing.T) {
	bubble(t, func(t *testing.T, s *seenSet, r *scripted) {
		s.history.become("", errAway)
		time.Sleep(2890 * time.Millisecond)
		want(t, s.ask(t, 1, key("A", 1)), same)
		time.Sleep(20 * time.Millisecond)
		want(t, s.ask(t, 1, key("A", 1)), no)
		if len(r.asked) != 1 || s.asks(t, "skipped") != 1 {
			t.Errorf("asked for %q, skipped %v", r.asked, s.asks(t, "skipped"))
		}

		s.history.become("two", nil)
		time.Sleep(time.Second)
		want(t, s.ask(t, 1, key("A", 1)), same)
		if len(r.asked) != 2 || r.asked[0] == r.asked[1] {
			t.Errorf("asked for %q in the timelines one and two", r.asked)
		}
	})
}

// Large asks take turns. Those that get none in time are not seen, and Redis is
// not to blame for it.
func TestSeenSet_Turns(t *testing.T) {
	bubble(t, func(t *testing.T, s *seenSet, r *scripted) {
		r.perKey = 30 * time.Microsecond // a thousand take 30 ms, of the 50 that an ask may take
		ids := make([]string, 1_000)
		for i := range ids {
			ids[i] = fmt.Sprint(i)
		}
		var asks sync.WaitGroup
		for range 10 {
			asks.Go(func() { s.ask(t, 1, clients(ids...)...) })
		}
		asks.Wait()
		if answered, skipped := s.asks(t, "answered"), s.asks(t, "skipped"); answered != 4 || skipped != 6 ||
			s.logs.Len() > 0 {
			t.Errorf("%v answered, %v skipped, log %v", answered, skipped, s.logs.All())
		}
		want(t, s.ask(t, 1, key("A", 1)), same)
	})
}

// The lease begins with the question: the answer may have been true then only.
func TestSeenSet_LeaseOfASlowAnswer(t *testing.T) {
	t.Parallel()
	client := newClient(t, "redis://127.0.0.1:1")
	r := &scripted{}
	client.AddHook(r)
	synctest.Test(t, func(t *testing.T) {
		slow := make(slowTimeline, 1)
		slow <- "one"
		s, err := dedupe.NewSeenSet(client, dedupe.SeenSetOptions{Timeline: slow})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		}()
		asked := func() bool {
			seen := make([]dedupe.Seen, 1)
			s.Ask(ctx, 1, clients("A"), seen)
			return seen[0] == same
		}
		time.Sleep(2400 * time.Millisecond)
		if asked() {
			t.Error("asked before the timeline was known")
		}
		time.Sleep(500 * time.Millisecond)
		if !asked() {
			t.Error("not asked when the timeline was known")
		}
		time.Sleep(200 * time.Millisecond)
		if asked() {
			t.Error("asked on the strength of a question that is 3.1 s old")
		}
		stop()
		<-ended
	})
}

// A slowTimeline gives a name, 2.5 s after it was asked, if it has one.
type slowTimeline chan string

func (s slowTimeline) Timeline(ctx context.Context) (string, error) {
	select {
	case name := <-s:
		time.Sleep(2500 * time.Millisecond)
		return name, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// Three asks that fail, and nobody is asked for a second; then one, to see. Two
// log lines report it, however long it takes.
func TestSeenSet_Breaker(t *testing.T) {
	bubble(t, func(t *testing.T, s *seenSet, r *scripted) {
		r.fail = func(context.Context) error { return errAway }
		for range 10 {
			want(t, s.ask(t, 1, key("A", 1)), no)
		}
		if len(r.asked) != 3 || s.asks(t, "failed") != 3 || s.asks(t, "skipped") != 7 {
			t.Errorf("asked %d times, %v failed, %v skipped", len(r.asked), s.asks(t, "failed"), s.asks(t, "skipped"))
		}
		for range 20 {
			time.Sleep(1010 * time.Millisecond)
			s.ask(t, 1, key("A", 1))
			s.ask(t, 1, key("A", 1))
		}
		if len(r.asked) != 23 {
			t.Errorf("asked %d times", len(r.asked))
		}
		s.wantLogs(t, "redis unavailable")
		r.fail = nil
		want(t, s.ask(t, 1, key("A", 1)), no)
		time.Sleep(1010 * time.Millisecond)
		want(t, s.ask(t, 1, key("A", 1)), same)
		want(t, s.ask(t, 1, key("A", 1)), same)
		s.wantLogs(t, "redis unavailable", "redis answers again")
	})
}

// An ask takes 50 ms at most.
func TestSeenSet_AskTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, s *seenSet, r *scripted) {
		r.fail = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		began := time.Now()
		want(t, s.ask(t, 1, key("A", 1)), no)
		if took := time.Since(began); took != 50*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

// A Redis too busy for all of a large batch in time returns what it can, and is
// neither unavailable nor slow; or many large batches would open the breaker.
func TestSeenSet_TooMuchForTheTime(t *testing.T) {
	bubble(t, func(t *testing.T, s *seenSet, r *scripted) {
		r.perKey = 10 * time.Microsecond
		all := make([]*intake.PartnerClient, intake.MaxBatchItems)
		for i := range all {
			all[i] = key(fmt.Sprint(i), 1)
		}
		for range 10 {
			began := time.Now()
			n := 0
			for _, seen := range s.ask(t, 1, all...) {
				if seen == same {
					n++
				}
			}
			if n < 3_000 || n > 5_000 {
				t.Errorf("%d are seen, of the 5,000 there was time for", n)
			}
			if took := time.Since(began); took != 50*time.Millisecond {
				t.Errorf("it took %v", took)
			}
		}
		if partly := s.asks(t, "partly"); partly != 10 {
			t.Errorf("%v asks were answered in part", partly)
		}
		s.wantLogs(t)
	})
}

// What goes wrong otherwise than by the time is no answer in part.
func TestSeenSet_FailsHalfWay(t *testing.T) {
	bubble(t, func(t *testing.T, s *seenSet, r *scripted) {
		all := make([]*intake.PartnerClient, intake.MaxBatchItems)
		for i := range all {
			all[i] = key(fmt.Sprint(i), 1)
		}
		trips := 0
		r.fail = func(context.Context) error {
			if trips++; trips%3 == 0 {
				return errAway
			}
			return nil
		}
		for range 3 {
			for i, seen := range s.ask(t, 1, all...) {
				if seen == different {
					t.Fatalf("client %d: %v", i, seen)
				}
			}
		}
		if failed := s.asks(t, "failed"); failed != 3 {
			t.Errorf("%v asks failed", failed)
		}
		s.wantLogs(t, "redis unavailable")
	})
}

// A caller in more of a hurry than an ask may take says nothing about Redis.
func TestSeenSet_CallerInAHurry(t *testing.T) {
	bubble(t, func(t *testing.T, s *seenSet, r *scripted) {
		r.fail = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		for range 10 {
			hurry, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			s.Ask(hurry, 1, clients("A"), make([]dedupe.Seen, 1))
			cancel()
		}
		r.fail = nil
		want(t, s.ask(t, 1, key("A", 1)), same)
		s.wantLogs(t)
	})
}

// Clients that go away say nothing about Redis.
func TestSeenSet_ClientGone(t *testing.T) {
	bubble(t, func(t *testing.T, s *seenSet, r *scripted) {
		r.fail = func(ctx context.Context) error { return ctx.Err() }
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for range 10 {
			s.Ask(gone, 1, clients("A"), make([]dedupe.Seen, 1))
		}
		r.fail = nil
		want(t, s.ask(t, 1, key("A", 1)), same)
		s.wantLogs(t)
	})
}
