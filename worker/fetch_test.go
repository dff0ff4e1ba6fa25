package worker

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"intake"
	"intake/internal/local/localtest"
	"intake/worker/queue"
)

// Many partners have queued large batches that they don't wait for: what a worker has
// taken of all of them together keeps within its bound, decoded or not.
func TestWorker_BusyLanesWithinMemory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, queue.Options{})
	laterLanes := len(queue.LaneNames()) - 1
	for n := range laterLanes {
		for range 3 {
			batch := bulky(2, fmt.Sprint(n))
			batch.Partner = intake.Partner{ID: int32(n), Name: fmt.Sprint("partner-", n), Currency: "GBP"}
			if n == 0 {
				batch.Partner.ID = int32(laterLanes)
			}
			submitTo(t, q, batch, queue.Later).Release()
		}
	}
	first, err := r.stream(t).GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	chunks, _, err := queue.ReadMessage(first.Data)
	if err != nil {
		t.Fatal(err)
	}
	perMessage := queue.MemoryOf(chunks[0])
	start(t, r.worker(t, Options{Store: stuckStore{}, ShutdownTimeout: 100 * time.Millisecond}).Run)
	// taken is how many messages the worker has taken, wherever they are by now.
	taken := func() (n int) {
		t.Helper()
		consumers := r.stream(t).ListConsumers(t.Context())
		for info := range consumers.Info() {
			n += info.NumAckPending
		}
		if err := consumers.Err(); err != nil {
			t.Fatal(err)
		}
		return n
	}
	most, same := 0, 0
	localtest.Eventually(t, "the worker takes no more", func() bool {
		now := taken()
		if now > most {
			most, same = now, 0
		}
		same++
		return most > 1 && same > 100
	})
	if most*perMessage > MaxMemory {
		t.Errorf("the worker holds %d messages of %d MiB in all, want %d MiB at most",
			most, most*perMessage>>20, MaxMemory>>20)
	}
}

// What waits for room in a worker is not delivered again meanwhile.
func TestWorker_KeepsAliveWhatWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, queue.Options{Ledger: silentLedger{r.store}})
	const batches = 30 // more than a backlog has room for
	for n := range batches {
		ids := make([]string, queue.MaxChunkItems)
		for i := range ids {
			ids[i] = fmt.Sprint(n, "-", i)
		}
		submit(t, q, newBatch(ids...))
	}
	const ackWait = 3 * time.Second
	start(t, r.worker(t, Options{Store: stuckStore{}, AckWait: ackWait, ShutdownTimeout: 100 * time.Millisecond}).Run)
	info := func() *jetstream.ConsumerInfo {
		t.Helper()
		consumer, err := r.stream(t).Consumer(t.Context(), queue.ConsumerName(queue.WaitingLane))
		if err != nil {
			return new(jetstream.ConsumerInfo)
		}
		return consumer.CachedInfo()
	}
	localtest.Eventually(t, "the worker has taken all", func() bool { return info().NumAckPending == batches })
	// Another consumer, whose one message nobody keeps alive, shows when twice the ack
	// wait is over.
	other, err := r.stream(t).CreateConsumer(t.Context(), jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: 2 * ackWait, MaxAckPending: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := range uint64(2) {
		msg, err := other.Next(jetstream.FetchMaxWait(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if meta, err := msg.Metadata(); err != nil || meta.NumDelivered != n+1 {
			t.Fatalf("%+v %v", meta, err)
		}
	}
	if n := info().NumRedelivered; n > 0 {
		t.Errorf("%d messages were delivered again", n)
	}
}
