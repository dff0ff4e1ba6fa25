package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"intake"
	"intake/internal/local/localtest"
)

// NATS stops reading, as a process that is stopped does: requests are refused in
// time all the same.
func TestSubmit_NATSDoesNotRead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	u, err := url.Parse(r.natsURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	var stopped atomic.Bool
	target := u.Host
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
				buffer := make([]byte, 4<<10)
				for {
					n, err := client.Read(buffer)
					if stopped.Load() {
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
	q := r.queueOver(t, connect(t, u.String()), Options{PublishTimeout: time.Second})
	stopped.Store(true)
	began := time.Now()
	results := make(chan error, 8)
	for n := range cap(results) {
		batch := newBatch("a")
		batch.Items[0].Client.ID = fmt.Sprint(n)
		noise := make([]byte, 3<<20)
		seed := uint64(n + 1)
		for i := range noise { // cannot be compressed
			seed = seed*6364136223846793005 + 1442695040888963407
			noise[i] = byte(seed >> 56)
		}
		batch.Items[0].Raw = noise
		go func() {
			_, err := q.Submit(t.Context(), batch, Waiting)
			results <- err
		}()
	}
	for range cap(results) {
		select {
		case err := <-results:
			t.Logf("%v: %v", time.Since(began).Round(time.Millisecond), err)
			if !errors.Is(err, ErrUnavailable) {
				t.Errorf("%v", err)
			}
		case <-time.After(20*time.Second - time.Since(began)):
			t.Fatal("a request is not answered after 20 s")
		}
	}
}

// JetStream has stored only the first message of a batch, as one whose disk is
// full may: when it says so, the others are queued too.
func TestSubmit_PartOfABatchIsQueued(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, Options{})
	ids := make([]string, 2*MaxChunkItems)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	batch := newBatch(ids...)
	chunks, datas, err := encode(batch, int(q.nc.MaxPayload()))
	if err != nil {
		t.Fatal(err)
	}
	base, err := newBase()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	g := group{{
		waiter: newWaiter(q, batch, chunks), topic: "waiting.acme", chunks: chunks, datas: datas, deadline: deadline,
	}}
	msgs := q.messages(base, g)
	if err := q.commit(t.Context(), msgs[:1], deadline); err != nil {
		t.Fatal(err)
	}
	if err := q.publishUntilKnown(t.Context(), g, msgs); err != nil {
		t.Fatal(err)
	}
	r.wantMessages(t, 2)
}

// Batches that come while another one is being published are published together.
func TestSubmit_PublishesTogether(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	registry := prometheus.NewRegistry()
	q, err := New(r.nc, Options{Ledger: &r.ledger, Stream: StreamOptions{MaxBytes: 64 << 20}, Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	if err := createLog(t.Context(), r.js, q.opts.Stream); err != nil {
		t.Fatal(err)
	}
	start(t, func(ctx context.Context) error {
		// Nothing is published before all have come.
		localtest.Eventually(t, "all batches have come", func() bool {
			q.waiting.mu.Lock()
			defer q.waiting.mu.Unlock()
			return !q.waiting.waiting.IsEmpty() && len(q.waiting.waiting.Next()) == 3
		})
		return q.Run(ctx)
	})
	q.checked.Store(connectionOf(r.nc))
	var submitting sync.WaitGroup
	for _, ids := range [][]string{{"a"}, {"b", "c"}, {"d"}} {
		submitting.Go(func() { submit(t, q, newBatch(ids...)) })
	}
	submitting.Wait()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "intake_queue_publish_items" {
			h := family.GetMetric()[0].GetHistogram()
			if h.GetSampleCount() != 1 || h.GetSampleSum() != 4 {
				t.Errorf("%d publishes of %g items, want 1 of 4", h.GetSampleCount(), h.GetSampleSum())
			}
			return
		}
	}
	t.Error("there is no intake_queue_publish_items")
}

// What nobody waits for is refused before the stream is full, and in time
// accepted again.
func TestSubmit_RoomForThoseWhoWait(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, Options{Stream: StreamOptions{MaxBytes: 1 << 20}})
	for range 8 {
		if _, err := r.js.Publish(t.Context(), SubjectPrefix+"waiting.acme.x.0", make([]byte, 100<<10)); err != nil {
			t.Fatal(err)
		}
	}
	accepts := func(lane Lane) bool {
		ticket, err := q.Submit(t.Context(), newBatch("a"), lane)
		if err != nil {
			return false
		}
		ticket.Release()
		return true
	}
	localtest.Eventually(t, "batches that nobody waits for are refused", func() bool { return !accepts(Later) })
	if !accepts(Waiting) {
		t.Error("a batch that someone waits for is refused")
	}
	if err := r.stream(t).Purge(t.Context(), jetstream.WithPurgeKeep(1)); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "they are accepted again", func() bool { return accepts(Later) })
}

// The publish queue groups small batches of one topic, keeps large ones apart, and lets the topics
// take turns.
func TestPublishQueue(t *testing.T) {
	t.Parallel()
	q := newPublishQueue()
	add := func(topic string, sizes ...int) (added group) {
		t.Helper()
		for _, size := range sizes {
			s := &submission{topic: topic, datas: make([][]byte, 1), bytes: size}
			if !q.add(s) {
				t.Fatal("the publish queue is closed")
			}
			added = append(added, s)
		}
		return added
	}
	a := add("a", 1, maxSmallBytes, maxSmallBytes+1, 1, 1)
	b := add("b", 1)
	a[4].datas = make([][]byte, 2)
	c := add("c", 1, 1, 1, maxSmallBytes, maxSmallBytes)
	c[0].raw, c[1].raw, c[2].raw = maxGroupRaw/2, maxGroupRaw/2, 1
	same := cmp.Comparer(func(x, y *submission) bool { return x == y })
	for i, want := range []group{a[:2], b, c[:2], a[2:3], c[2:], a[3:4], a[4:]} {
		if diff := cmp.Diff(want, q.nextGroup(maxGroupBytes), same); diff != "" {
			t.Errorf("group %d: %s", i, diff)
		}
	}
	b = add("b", 1, 1)
	for i, removal := range []struct {
		s    *submission
		want bool
	}{{b[0], true}, {b[0], false}, {a[0], false}} {
		if removed := q.remove(removal.s); removed != removal.want {
			t.Errorf("removal %d: %v, want %v", i, removed, removal.want)
		}
	}
	if diff := cmp.Diff([]*submission{b[1]}, q.close(), same); diff != "" {
		t.Errorf("left when closed: -want +got\n%s", diff)
	}
	if g := q.nextGroup(maxGroupBytes); g != nil {
		t.Errorf("a closed publish queue has a group of %d", len(g))
	}
	if q.add(b[0]) {
		t.Error("a closed publish queue accepts a submission")
	}
}

// A batch of several chunks is queued as a whole or not at all: here its second
// chunk doesn't fit any more.
func TestSubmit_FullStream(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, Options{})
	config := r.stream(t).CachedInfo().Config
	config.MaxMsgs = 1
	if _, err := q.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	ids := make([]string, MaxChunkItems+1)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	if _, err := q.Submit(t.Context(), newBatch(ids...), Waiting); !errors.Is(err, ErrUnavailable) {
		t.Errorf("two chunks: %v", err)
	}
	r.wantMessages(t, 0)
	submit(t, q, newBatch("a"))
	if _, err := q.Submit(t.Context(), newBatch("b"), Waiting); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a batch beyond: %v", err)
	}
}

func TestSubmit_NATSAway(t *testing.T) {
	t.Parallel()
	q, err := New(connect(t, "nats://127.0.0.1:1"), Options{Ledger: new(fakeLedger)})
	if err != nil {
		t.Fatal(err)
	}
	start(t, q.Run)
	if _, err := q.Submit(t.Context(), newBatch("a"), Waiting); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("%v", err)
	}
}

// Neither the queue nor the ledger answers: then nothing may be said.
func TestSubmit_Uncertain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.ledger.away = true
	url, deafen, _ := localtest.Silenced(t, r.natsURL)
	q := r.queueOver(t, connect(t, url), Options{PublishTimeout: time.Second})
	deafen()
	if _, err := q.Submit(t.Context(), newBatch("a"), Waiting); !errors.Is(err, ErrUncertain) {
		t.Fatalf("%v", err)
	}
}

// The outcomes of a batch reach its ticket, from a worker or from the ledger, until the ticket is
// released.
func TestTicket_Outcomes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, Options{})
	for name, deliver := range map[string]func(intake.Outcome){
		"from a worker": func(outcome intake.Outcome) {
			if err := r.nc.Publish(q.reply, AppendOutcome(nil, outcome, nil)); err != nil {
				t.Fatal(err)
			}
		},
		"from the ledger": func(outcome intake.Outcome) {
			r.ledger.mu.Lock()
			defer r.ledger.mu.Unlock()
			r.ledger.outcomes = append(r.ledger.outcomes, outcome)
		},
	} {
		batch := newBatch("a", "b")
		ticket := submit(t, q, batch)
		duplicate := intake.ItemVerdict{Item: 1, Verdict: intake.DuplicateOfSaved(true)}
		deliver(intake.Outcome{Batch: ticket.ID(), Len: 2, NotSaved: []intake.ItemVerdict{duplicate}})
		if !ticket.Wait(t.Context()) {
			t.Errorf("%s: no outcome", name)
		}
		want := []intake.Verdict{{Code: intake.CodeSaved}, intake.DuplicateOfSaved(true)}
		if diff := cmp.Diff(want, batch.Verdicts); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
		ticket.Release()
	}
	if len(q.waiters) != 0 {
		t.Errorf("%d batches are still waited for", len(q.waiters))
	}
}
