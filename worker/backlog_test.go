package worker

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"intake"
	"intake/internal/local/localtest"
	"intake/worker/queue"
)

// bulky returns a batch of items that take much memory and compress to almost nothing.
func bulky(n int, mark string) *intake.Batch {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprint(mark, "-", i)
	}
	batch := newBatch(ids...)
	identifiers := append(append([]byte(`[{"key":"k","values":["`), bytes.Repeat([]byte("a"), 1<<20)...), `"]}]`...)
	for i := range batch.Items {
		batch.Items[i].Raw = identifiers
		batch.Items[i].Client.OtherIdentifiers = identifiers
	}
	return batch
}

// stuckStore saves nothing until its context ends.
type stuckStore struct{}

// A worker bounds what it holds by its size in memory, not by its compressed size.
func TestBacklog_BoundsMemory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, queue.Options{Ledger: silentLedger{r.store}})
	const batches, each = 40, 12 // of 1 MiB: 480 MiB
	for n := range batches {
		submit(t, q, bulky(each, fmt.Sprint(n))).Release()
	}
	info, err := r.stream(t).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := r.worker(t, Options{Store: stuckStore{}, ShutdownTimeout: 100 * time.Millisecond})
	start(t, w.Run)
	// read returns the memory of what was read from messages: their items, and by the worker's count.
	read := func() (items, counted int) {
		w.backlog.mu.Lock()
		defer w.backlog.mu.Unlock()
		for h := range w.backlog.held {
			counted += h.size
			for _, chunk := range h.chunks {
				for i := range chunk.Clients {
					items += len(chunk.Clients[i].OtherIdentifiers)
				}
			}
		}
		return items, counted
	}
	// Then the one message that was read last waits for room, and no other one is read before.
	localtest.Eventually(t, "the worker holds all messages, and has read as many as it has room for", func() bool {
		_, counted := read()
		return len(w.backlog.messages()) == int(info.State.Msgs) && counted > backlogBound.bytes
	})
	if items, _ := read(); items > 160<<20 {
		t.Errorf("the worker holds %d MiB, of messages of %d KiB", items>>20, info.State.Bytes>>10)
	}
}

// A worker that stops also hands back what it has fetched in advance.
func TestWorker_HandsBackWhatItFetchedInAdvance(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, queue.Options{Ledger: silentLedger{r.store}})
	var tickets []queue.Ticket
	for n := range 30 { // more items than a backlog has room for
		ids := make([]string, queue.MaxChunkItems)
		for i := range ids {
			ids[i] = fmt.Sprint(n, "-", i)
		}
		tickets = append(tickets, submit(t, q, newBatch(ids...)))
	}
	stuck := r.worker(t, Options{Store: stuckStore{}, AckWait: time.Hour, ShutdownTimeout: 100 * time.Millisecond})
	stop := start(t, stuck.Run)
	localtest.Eventually(t, "the worker holds all, though its backlog is full", func() bool {
		stuck.backlog.mu.Lock()
		defer stuck.backlog.mu.Unlock()
		return len(stuck.backlog.held) == 30 && stuck.backlog.sizes[queue.WaitingLane].items == backlogBound.items
	})
	stop()
	start(t, r.worker(t, Options{AckWait: time.Hour}).Run)
	for i, ticket := range tickets {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		ok := ticket.Wait(ctx)
		cancel()
		if !ok {
			t.Fatalf("batch %d is not handed back until the ack wait is over", i)
		}
	}
}

// The waiting lane comes first, but every fifth gathering is of the later lanes.
func TestBacklog_Share(t *testing.T) {
	t.Parallel()
	b := newBacklog(newWorkerMetrics(nil).held)
	add := func(lane string) { b.add(&held{lane: lane, delivery: 1, items: gatheringBound.items}) }
	add("later-1")
	var order []string
	for range 3 * (maxAhead + 1) {
		add(queue.WaitingLane)
		gathering := b.nextGathering()
		order = append(order, gathering[0].lane)
		b.release(gathering)
		if gathering[0].lane != queue.WaitingLane {
			add("later-1")
		}
	}
	for i, lane := range order {
		if want := i%(maxAhead+1) == maxAhead; want != (lane != queue.WaitingLane) {
			t.Errorf("gathering %d is of %s", i, lane)
		}
	}
}

// While a small gathering is being saved, no other small one is, and what has come shares the next one.
func TestBacklog_SmallGatheringsShare(t *testing.T) {
	t.Parallel()
	add := func(b *backlog, lane string, items int) { b.add(&held{lane: lane, delivery: 1, items: items}) }
	hasGathering := func(b *backlog) bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.hasGathering()
	}
	small := func(t *testing.T) (*backlog, []*held) {
		b := newBacklog(newWorkerMetrics(nil).held)
		b.shareTime = time.Hour
		add(b, queue.WaitingLane, 1)
		gathering := b.nextGathering()
		if add(b, queue.WaitingLane, 1); hasGathering(b) {
			t.Error("a single item does not wait for another one's transaction")
		}
		if add(b, "later-1", 1); hasGathering(b) {
			t.Error("an item that nobody waits for does not wait for another one's transaction")
		}
		return b, gathering
	}
	t.Run("until the commit", func(t *testing.T) {
		b, gathering := small(t)
		if b.committed(gathering); !hasGathering(b) {
			t.Fatal("what has come does not follow the commit")
		}
		add(b, queue.WaitingLane, 1)
		if n := len(b.nextGathering()); n != 2 {
			t.Errorf("%d items share the next transaction, want both of the waiting lane", n)
		}
	})
	t.Run("until it has failed", func(t *testing.T) {
		b, gathering := small(t)
		if b.release(gathering); !hasGathering(b) {
			t.Error("what has come waits for a transaction that has ended")
		}
	})
	t.Run("until there is enough", func(t *testing.T) {
		b, gathering := small(t)
		add(b, queue.WaitingLane, smallBound.items-3)
		if hasGathering(b) {
			t.Errorf("%d items are saved beside a small gathering", smallBound.items-1)
		}
		if add(b, queue.WaitingLane, 1); !hasGathering(b) {
			t.Fatalf("%d items wait for a small gathering", smallBound.items)
		}
		b.nextGathering()
		b.committed(gathering)
	})
	t.Run("not for a large one", func(t *testing.T) {
		b := newBacklog(newWorkerMetrics(nil).held)
		add(b, queue.WaitingLane, smallBound.items)
		b.nextGathering()
		if add(b, queue.WaitingLane, 1); !hasGathering(b) {
			t.Error("an item waits for a large gathering")
		}
	})
	t.Run("nor for long", func(t *testing.T) {
		b := newBacklog(newWorkerMetrics(nil).held)
		b.shareTime = time.Millisecond
		add(b, queue.WaitingLane, 1)
		b.nextGathering()
		add(b, queue.WaitingLane, 1)
		if n := len(b.nextGathering()); n != 1 {
			t.Errorf("a gathering of %d", n)
		}
	})
}

func (stuckStore) Save(ctx context.Context, _ []*intake.Chunk) (intake.Saved, error) {
	<-ctx.Done()
	return intake.Saved{}, ctx.Err()
}

func (stuckStore) Ping(context.Context) error { return nil }
