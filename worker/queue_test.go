package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"intake"
)

// Many batches at once are all queued, and each by itself.
func TestQueue_SubmitAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	start(t, r.worker(t, Options{}).Run)
	q := r.queue(t, r.nc, QueueOptions{Ledger: silentLedger{r.store}})
	var wg sync.WaitGroup
	for n := range 64 {
		wg.Go(func() {
			for i := range 10 {
				batch := newBatch(fmt.Sprint(n, "-", i))
				ticket, err := q.Submit(t.Context(), batch, Waiting)
				if err != nil {
					t.Error(err)
					return
				}
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				if !ticket.Wait(ctx) || batch.Verdicts[0].Code != intake.CodeSaved {
					t.Errorf("verdict %v", batch.Verdicts[0])
				}
				cancel()
				ticket.Release()
			}
		})
	}
	wg.Wait()
	if len(q.tickets) != 0 {
		t.Errorf("%d tickets are left", len(q.tickets))
	}
	info, err := r.stream(t).Info(t.Context())
	if err != nil || info.State.Msgs >= 640 {
		t.Errorf("%d messages for 640 batches: none shared one (%v)", info.State.Msgs, err)
	}
}

// The line groups small batches of one partner, keeps large ones apart, and lets
// the partners take turns.
func TestLine(t *testing.T) {
	t.Parallel()
	l := newLine()
	join := func(partner string, sizes ...int) (joined []*submission) {
		for _, size := range sizes {
			s := &submission{topic: partner, datas: make([][]byte, 1), bytes: size}
			if !l.join(s) {
				t.Fatal("the line is closed")
			}
			joined = append(joined, s)
		}
		return joined
	}
	a := join("a", 1, maxSmallBytes, maxSmallBytes+1, 1, 1)
	b := join("b", 1)
	a[4].datas = make([][]byte, 2)
	c := join("c", 1, 1, 1, maxSmallBytes, maxSmallBytes)
	c[0].raw, c[1].raw, c[2].raw = maxGroupRaw/2, maxGroupRaw/2, 1
	for i, want := range [][]*submission{a[:2], b, c[:2], a[2:3], c[2:], a[3:4], a[4:]} {
		if diff := cmp.Diff(want, l.take(maxGroupBytes), cmp.Comparer(func(x, y *submission) bool { return x == y })); diff != "" {
			t.Errorf("group %d: %s", i, diff)
		}
	}
	b = join("b", 1, 1)
	if !l.leave(b[0]) || l.leave(b[0]) || l.leave(a[0]) {
		t.Error("only who waits can leave")
	}
	if left := l.close(); len(left) != 1 || left[0] != b[1] || l.take(maxGroupBytes) != nil || l.join(b[0]) {
		t.Error("closing gives who is left, and ends all waiting")
	}
}

func (r *rig) stream(t *testing.T) jetstream.Stream {
	t.Helper()
	js, err := jetstream.New(r.nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), StreamName)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// A batch of several chunks is queued as a whole or not at all: here its second
// chunk doesn't fit any more.
func TestQueue_SubmitToAFullStream(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, QueueOptions{})
	config := r.stream(t).CachedInfo().Config
	config.MaxMsgs = 1
	if _, err := q.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	ids := make([]string, maxChunkItems+1)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	if _, err := q.Submit(t.Context(), newBatch(ids...), Waiting); !errors.Is(err, ErrUnavailable) {
		t.Errorf("two chunks: %v", err)
	}
	if info, err := r.stream(t).Info(t.Context()); err != nil || info.State.Msgs != 0 {
		t.Errorf("%d messages are queued: %v", info.State.Msgs, err)
	}
	q.submit(t, newBatch("a"))
	if _, err := q.Submit(t.Context(), newBatch("b"), Waiting); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a batch beyond: %v", err)
	}
}

func TestQueue_NATSAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q, err := NewQueue(connect(t, "nats://127.0.0.1:1"), QueueOptions{Ledger: r.store})
	if err != nil {
		t.Fatal(err)
	}
	start(t, q.Run)
	if _, err := q.Submit(t.Context(), newBatch("a"), Waiting); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("%v", err)
	}
}

// deafen gives a connection to NATS through a proxy, and a function after which
// NATS hears what is sent while nothing of its answers arrives.
func (r *rig) deafen(t *testing.T) (nc *nats.Conn, deafen func()) { return r.silence(t, "downstream") }

// mute is the other way round: answers arrive, and nothing that is sent does.
func (r *rig) mute(t *testing.T) (nc *nats.Conn, mute func()) { return r.silence(t, "upstream") }

func (r *rig) silence(t *testing.T, stream string) (nc *nats.Conn, silence func()) {
	t.Helper()
	parsed, err := url.Parse(r.natsURL)
	if err != nil {
		t.Fatal(err)
	}
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	proxy := toxiproxy.NewProxy(server, t.Name(), "127.0.0.1:0", parsed.Host)
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Stop)
	_, port, err := net.SplitHostPort(proxy.Listen)
	if err != nil {
		t.Fatal(err)
	}
	parsed.Host = net.JoinHostPort("127.0.0.1", port)
	return connect(t, parsed.String()), func() {
		toxic := fmt.Sprintf(`{"type": "timeout", "stream": %q, "attributes": {"timeout": 0}}`, stream)
		if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
			t.Fatal(err)
		}
	}
}

// JetStream stores a batch, and its answer is lost. The batch is refused, so
// nothing of it may be saved, now or later.
func TestQueue_AckLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nc, deafen := r.deafen(t)
	q := r.queue(t, nc, QueueOptions{PublishTimeout: time.Second})
	deafen()
	if _, err := q.Submit(t.Context(), newBatch("a"), Waiting); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("%v", err)
	}
	eventually(t, "the message is in the stream", func() bool {
		info, err := r.stream(t).Info(t.Context())
		return err == nil && info.State.Msgs == 1
	})
	start(t, r.worker(t, Options{}).Run)
	eventually(t, "the consumer is there", func() bool {
		_, err := r.stream(t).Consumer(t.Context(), consumerOf(waitingLane))
		return err == nil
	})
	r.wantAllAcked(t)
	r.wantForgotten(t)
}

// wantForgotten waits until the log is empty, and checks that what was withdrawn
// can be saved.
func (r *rig) wantForgotten(t *testing.T) {
	t.Helper()
	eventually(t, "the message is out of the log", func() bool {
		info, err := r.stream(t).Info(t.Context())
		return err == nil && info.State.Msgs == 0
	})
	again := newBatch("a")
	waitFor(t, r.queue(t, r.nc, QueueOptions{}).submit(t, again))
	wantCodes(t, again, intake.CodeSaved)
}

// The answer is lost, but the batch is saved by the time that this is noticed:
// it counts as queued, and the ledger tells its outcome.
func TestQueue_AckLostButSaved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	start(t, r.worker(t, Options{}).Run)
	nc, deafen := r.deafen(t)
	q := r.queue(t, nc, QueueOptions{PublishTimeout: time.Second})
	eventually(t, "the worker waits for messages", func() bool {
		consumer, err := r.stream(t).Consumer(t.Context(), consumerOf(waitingLane))
		return err == nil && consumer.CachedInfo().NumWaiting > 0
	})
	deafen()
	batch := newBatch("a")
	waitFor(t, q.submit(t, batch))
	wantCodes(t, batch, intake.CodeSaved)
}

// brokenLedger can't be asked.
type brokenLedger struct{ Ledger }

func (brokenLedger) Withdraw(context.Context, []*intake.Chunk, *intake.Holder) (bool, error) {
	return false, errors.New("away")
}

// Neither the queue nor the ledger answers: then nothing may be said.
func TestQueue_Uncertain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nc, deafen := r.deafen(t)
	q := r.queue(t, nc, QueueOptions{PublishTimeout: time.Second, Ledger: brokenLedger{r.store}})
	deafen()
	if _, err := q.Submit(t.Context(), newBatch("a"), Waiting); !errors.Is(err, ErrUncertain) {
		t.Fatalf("%v", err)
	}
}
