package front_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"intake"
	"intake/internal/client"
	"intake/internal/local/localtest"
	"intake/sink"
	"intake/worker/queue"
)

// limited starts a front whose partner has limits.
func limited(t *testing.T, limits intake.Limits) *testFront {
	t.Helper()
	f := startFront(t)
	f.registry.Change("acme", func(p *sink.PartnerRecord) { p.Limits = limits })
	f.reload(t)
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
	if a.status != http.StatusOK || a.header.Get("RateLimit-Limit") != "10000" ||
		a.header.Get("RateLimit-Remaining") != "4000" || a.header.Get("RateLimit-Reset") != "6000" {
		t.Errorf("%d %v", a.status, a.header)
	}
	queued := f.queue.submitted()
	for _, path := range []string{"", "/reconcile"} {
		a = send(path, batch, "Idempotency-Key", "k")
		a.checkProblem(t, 429, "items_per_second: more than 1 items a second; nothing of this batch was saved or queued")
		if retry, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || retry < 1 || retry > 2_000 {
			t.Errorf("%s: Retry-After %q", path, a.header.Get("Retry-After"))
		}
	}
	if n := f.queue.submitted(); n != queued {
		t.Error("a batch that was refused is queued")
	}
	stranger := startFront(t)
	if a := stranger.do(t, stranger.create(t, stranger.token(t),
		strings.NewReader(batch))); a.status != http.StatusOK || a.header.Get("RateLimit-Limit") != "" {
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

// A stream is one request in flight for as long as it is open, as is a question,
// and its lines are bytes in flight.
func TestLimits_InFlight(t *testing.T) {
	t.Parallel()
	f := limited(t, intake.Limits{Requests: 2, Bytes: 1 << 20})
	token := f.token(t)
	f.store.records = map[string]intake.Record{"a": {ID: "a"}}
	var batch client.Answer
	if err := json.Unmarshal(f.do(t, f.create(t, token, strings.NewReader(items("a")))).Bytes(), &batch); err != nil {
		t.Fatal(err)
	}
	paths := []string{"/api/v1/clients/a", batch.URI}
	streams := []*testStream{f.openStream(t, f.client), f.openStream(t, h2Client(t))}
	for _, s := range streams {
		s.write(items("b") + "\n")
		s.wantLine(`"status":"Completed"`)
	}
	const tooMany = "requests_in_flight: more than 2 requests in flight"
	refused := []*answer{
		f.do(t, f.create(t, token, strings.NewReader(items("a")))),
		f.do(t, f.create(t, token, strings.NewReader(""), "Content-Type", "application/x-ndjson")),
	}
	for _, path := range paths {
		refused = append(refused, f.get(t, path, token))
	}
	for _, a := range refused {
		a.checkProblem(t, http.StatusTooManyRequests, tooMany)
		if a.header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After: %s", a.header.Get("Retry-After"))
		}
	}
	streams[0].send.Close()
	streams[0].wantEnd()
	for _, path := range paths {
		localtest.Eventually(t, "a slot is free again",
			func() bool { return f.get(t, path, token).status != http.StatusTooManyRequests })
	}
	streams[1].write(items("c") + "\n")
	streams[1].wantLine(`"status":"Completed"`)
}

// A line waits for its partner's bytes in flight, and is refused with when to come
// again if that won't do; then the stream goes on.
func TestLimits_LineBytes(t *testing.T) {
	t.Parallel()
	f := limited(t, intake.Limits{Bytes: 64 << 10})
	waiting, saved := make(chan struct{}), make(chan struct{})
	f.queue.submit = func(_ context.Context, batch *intake.Batch) (queue.Ticket, error) {
		waiting <- struct{}{}
		return &fakeTicket{wait: func(context.Context) bool {
			<-saved
			saveAll(batch)
			return true
		}}, nil
	}
	large := strings.Repeat(" ", 40<<10) + items("a") + "\n"
	s := f.openStream(t, f.client)
	s.write(large)
	<-waiting
	s.write(large)
	time.AfterFunc(100*time.Millisecond, func() { close(saved) })
	s.wantLine(`"status":"Completed"`)
	<-waiting
	s.wantLine(`"status":"Completed"`)

	saved = make(chan struct{})
	s.write(large)
	<-waiting
	s.write(large)
	time.AfterFunc(12*time.Second, func() { close(saved) })
	s.wantLine(`"status":"Completed"`)
	s.wantLine(`"status":429`, `"retry_after":1`, "more than 65536 bytes in flight")
	go func() { <-waiting }()
	s.write(items("a") + "\n")
	s.wantLine(`"status":"Completed"`)
}

// A line waits for its partner's rate, too.
func TestLimits_LineRate(t *testing.T) {
	t.Parallel()
	f := limited(t, intake.Limits{ItemsPerSecond: 1, Burst: 10_000})
	many := make([]string, 6_000)
	for i := range many {
		many[i] = strconv.Itoa(i)
	}
	s := f.openStream(t, f.client, "Prefer", "return=minimal")
	s.write(items(many...) + "\n")
	s.wantLine(`"status":"Completed"`)
	s.write(items(many...) + "\n" + items("a") + "\n")
	s.wantLine(`"status":429`, `"retry_after":`, "more than 1 items a second")
	s.wantLine(`"status":"Completed"`)
}
