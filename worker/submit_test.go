package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"intake"
	"intake/internal/local/localtest"
	"intake/worker/queue"
)

// Batches that are submitted concurrently are all queued and saved, and share messages.
func TestQueue_SubmitAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	start(t, r.worker(t, Options{}).Run)
	q := r.queue(t, r.nc, queue.Options{Ledger: silentLedger{r.store}})
	var wg sync.WaitGroup
	for n := range 64 {
		wg.Go(func() {
			for i := range 10 {
				batch := newBatch(fmt.Sprint(n, "-", i))
				ticket, err := q.Submit(t.Context(), batch, queue.Waiting)
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
	info, err := r.stream(t).Info(t.Context())
	if err != nil || info.State.Msgs >= 640 {
		t.Errorf("%d messages for 640 batches: none shared one (%v)", info.State.Msgs, err)
	}
}

func (r *rig) stream(t *testing.T) jetstream.Stream {
	t.Helper()
	stream, err := r.js.Stream(t.Context(), queue.StreamName)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// JetStream stores a batch, and its answer is lost. The batch is refused, so
// nothing of it may be saved, now or later.
func TestQueue_AckLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nc, deafen := r.deafen(t)
	q := r.queue(t, nc, queue.Options{PublishTimeout: time.Second})
	deafen()
	if _, err := q.Submit(t.Context(), newBatch("a"), queue.Waiting); !errors.Is(err, queue.ErrUnavailable) {
		t.Fatalf("%v", err)
	}
	localtest.Eventually(t, "the message is in the stream", func() bool {
		info, err := r.stream(t).Info(t.Context())
		return err == nil && info.State.Msgs == 1
	})
	start(t, r.worker(t, Options{}).Run)
	localtest.Eventually(t, "the consumer is there", func() bool {
		_, err := r.stream(t).Consumer(t.Context(), queue.ConsumerName(queue.WaitingLane))
		return err == nil
	})
	r.wantAllAcked(t)
	r.wantForgotten(t)
}

// wantForgotten waits until the log is empty, and checks that what was withdrawn
// can be saved.
func (r *rig) wantForgotten(t *testing.T) {
	t.Helper()
	localtest.Eventually(t, "the message is out of the log", func() bool {
		info, err := r.stream(t).Info(t.Context())
		return err == nil && info.State.Msgs == 0
	})
	again := newBatch("a")
	waitFor(t, submit(t, r.queue(t, r.nc, queue.Options{}), again))
	wantCodes(t, again, intake.CodeSaved)
}

// The answer is lost, but the batch is saved by the time that this is noticed:
// it counts as queued, and its outcome comes from the ledger.
func TestQueue_AckLostButSaved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	start(t, r.worker(t, Options{}).Run)
	nc, deafen := r.deafen(t)
	q := r.queue(t, nc, queue.Options{PublishTimeout: time.Second})
	localtest.Eventually(t, "the worker waits for messages", func() bool {
		consumer, err := r.stream(t).Consumer(t.Context(), queue.ConsumerName(queue.WaitingLane))
		return err == nil && consumer.CachedInfo().NumWaiting > 0
	})
	deafen()
	batch := newBatch("a")
	waitFor(t, submit(t, q, batch))
	wantCodes(t, batch, intake.CodeSaved)
}

// deafen returns a connection to NATS, and a function after which NATS hears what is sent over it
// while none of its answers arrive.
func (r *rig) deafen(t *testing.T) (nc *nats.Conn, deafen func()) {
	t.Helper()
	url, deafen, _ := localtest.Silenced(t, r.natsURL)
	return connect(t, url), deafen
}

// mute is the other way round: answers arrive, and nothing that is sent does.
func (r *rig) mute(t *testing.T) (nc *nats.Conn, mute func()) {
	t.Helper()
	url, _, mute := localtest.Silenced(t, r.natsURL)
	return connect(t, url), mute
}
