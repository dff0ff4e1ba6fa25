package worker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"intake"
)

// A gate is a store that saves one gathering each time that it is let through,
// and keeps whose chunks they were.
type gate struct {
	Store
	open chan struct{}

	mu       sync.Mutex
	gathered [][]int32 // partners
}

func (g *gate) Save(ctx context.Context, chunks []*intake.Chunk) (intake.Saved, error) {
	select {
	case <-g.open:
	case <-ctx.Done():
		return intake.Saved{}, ctx.Err()
	}
	saved, err := g.Store.Save(ctx, chunks)
	if err == nil {
		var partners []int32
		for _, chunk := range chunks {
			partners = append(partners, chunk.Partner)
		}
		g.mu.Lock()
		g.gathered = append(g.gathered, partners)
		g.mu.Unlock()
	}
	return saved, err
}

// A partner has queued a lot that it doesn't wait for. What another one waits for
// is saved next, and what another one doesn't wait for soon after.
func TestWorker_Lanes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, QueueOptions{})
	partners := []string{1: "acme"}
	for n := 2; n <= 4; n++ {
		partners = append(partners, fmt.Sprint("partner", n))
		r.addPartner(t, partners[n])
	}
	submit := func(partner int32, lane Lane, id string, items int) *Ticket {
		t.Helper()
		ids := make([]string, items)
		for i := range ids {
			ids[i] = fmt.Sprint(id, i)
		}
		batch := newBatch(ids...)
		batch.Partner.ID, batch.Partner.Name = partner, partners[partner]
		ticket, err := q.Submit(t.Context(), batch, lane)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(ticket.Release)
		return ticket
	}
	var tickets []*Ticket
	for n := range 40 {
		tickets = append(tickets, submit(1, Later, fmt.Sprintf("a%d-", n), 500))
	}
	store := &gate{Store: r.store, open: make(chan struct{})}
	w := r.worker(t, Options{Store: store, Savers: 1})
	start(t, w.Run)
	heldOf := func(lane Lane, partner int32) int {
		name := lane.nameOf(&intake.Partner{ID: partner})
		w.backlog.mu.Lock()
		defer w.backlog.mu.Unlock()
		return w.backlog.sizes[name].items
	}
	eventually(t, "a saver has begun with the many", func() bool { return heldOf(Later, 1) == laneBound.items })
	tickets = append(tickets, submit(2, Later, "b", 1), submit(3, Waiting, "c", 1), submit(4, Waiting, "d", 1))
	eventually(t, "the worker has the others", func() bool { return heldOf(Waiting, 3) == 2 && heldOf(Later, 2) == 1 })
	close(store.open)
	for _, ticket := range tickets {
		waitFor(t, ticket)
	}
	r.wantAllAcked(t)

	at := func(partner int32) int {
		return slices.IndexFunc(store.gathered, func(partners []int32) bool { return slices.Contains(partners, partner) })
	}
	// The first gathering was begun before the others came.
	if first := store.gathered[0]; len(first) > 2 || at(3) != 1 || at(4) != 1 || at(2) != 2 {
		t.Errorf("saved in this order: %v", store.gathered)
	}
	for _, partners := range store.gathered {
		if n := len(partners); n > 3 {
			t.Errorf("%d chunks that nobody waits for were saved at once", n)
		}
	}
}

// Those who wait are ahead, but not for ever: others have a share.
func TestBacklog_Share(t *testing.T) {
	t.Parallel()
	b := newBacklog(newWorkerMetrics(nil).held)
	add := func(lane string) { b.add(&held{lane: lane, delivery: 1, items: gatheringBound.items}) }
	add("later-1")
	var order []string
	for range 3 * (maxAhead + 1) {
		add(waitingLane)
		gathering := b.take()
		order = append(order, gathering[0].lane)
		b.release(gathering)
		if gathering[0].lane != waitingLane {
			add("later-1")
		}
	}
	for i, lane := range order {
		if want := i%(maxAhead+1) == maxAhead; want != (lane != waitingLane) {
			t.Errorf("gathering %d is of %s", i, lane)
		}
	}
}

// What nobody waits for is refused before the stream is full, and in time
// accepted again.
func TestQueue_RoomForThoseWhoWait(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker(t, Options{})
	if _, err := setUp(t.Context(), w.js, StreamOptions{MaxBytes: 1 << 20}, w.opts.AckWait); err != nil {
		t.Fatal(err)
	}
	q := r.queue(t, r.nc, QueueOptions{})
	for range 8 {
		if _, err := w.js.Publish(t.Context(), subjectPrefix+"waiting.acme.x.0", make([]byte, 100<<10)); err != nil {
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
	eventually(t, "batches that nobody waits for are refused", func() bool { return !accepts(Later) })
	if !accepts(Waiting) {
		t.Error("a batch that someone waits for is refused")
	}
	if err := r.stream(t).Purge(t.Context(), jetstream.WithPurgeKeep(1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "they are accepted again", func() bool { return accepts(Later) })
}
