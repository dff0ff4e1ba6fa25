package front_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"intake"
)

// limited starts a front whose partner has limits.
func limited(t *testing.T, limits intake.Limits) *testFront {
	t.Helper()
	f := startFront(t)
	f.registry.records[0].Limits = limits
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f
}

// Beyond its rate a partner is refused whole, with when to come again, and what
// it has left is told in each answer.
func TestLimits_Rate(t *testing.T) {
	t.Parallel()
	f := limited(t, intake.Limits{ItemsPerSecond: 1, Burst: 10_000})
	token := f.token(t)
	many := make([]string, 6_000)
	for i := range many {
		many[i] = strconv.Itoa(i)
	}
	batch := items(many...)
	send := func(path, body string, headers ...string) *answer {
		t.Helper()
		request := f.create(t, token, strings.NewReader(body), headers...)
		request.URL.Path += path
		return f.do(t, request)
	}
	a := send("", batch)
	if a.status != http.StatusOK || a.header.Get("RateLimit-Limit") != "10000" || a.header.Get("RateLimit-Remaining") != "4000" || a.header.Get("RateLimit-Reset") != "6000" {
		t.Errorf("%d %v", a.status, a.header)
	}
	queued := f.queue.submitted()
	for _, path := range []string{"", "/reconcile"} {
		a = send(path, batch, "Idempotency-Key", "k")
		a.checkProblem(t, 429, "more than 1 items a second; nothing of this batch was saved or queued")
		if retry, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || retry < 1 || retry > 2_000 {
			t.Errorf("%s: Retry-After %q", path, a.header.Get("Retry-After"))
		}
	}
	if n := f.queue.submitted(); n != queued {
		t.Error("a batch that was refused is queued")
	}
	stranger := startFront(t)
	if a := stranger.do(t, stranger.create(t, stranger.token(t), strings.NewReader(batch))); a.status != http.StatusOK || a.header.Get("RateLimit-Limit") != "" {
		t.Errorf("without a limit: %d %v", a.status, a.header)
	}
}

// A stream is slowed down instead of being refused.
func TestLimits_Stream(t *testing.T) {
	t.Parallel()
	f := limited(t, intake.Limits{ItemsPerSecond: 10_000, Burst: 10_000, Requests: 1, Bytes: 1 << 20})
	ids := make([]string, 2_000)
	for i := range ids {
		ids[i] = strconv.Itoa(i)
	}
	line := items(ids...) + "\n"
	s := f.openStream(t, f.client, "Prefer", "return=minimal")
	go func() {
		for range 10 {
			_, _ = s.send.Write([]byte(line))
		}
		s.send.Close()
	}()
	for range 10 {
		s.wantLine(`"status":"Completed"`)
	}
	s.wantEnd()
}
