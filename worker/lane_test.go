package worker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"intake"
	"intake/internal/local/localtest"
	"intake/worker/queue"
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
	q := r.queue(t, r.nc, queue.Options{})
	partners := []string{1: "acme"}
	for n := 2; n <= 4; n++ {
		partners = append(partners, fmt.Sprint("partner", n))
		r.addPartner(t, partners[n])
	}
	submit := func(partner int32, lane queue.Lane, id string, items int) queue.Ticket {
		t.Helper()
		ids := make([]string, items)
		for i := range ids {
			ids[i] = fmt.Sprint(id, i)
		}
		batch := newBatch(ids...)
		batch.Partner.ID, batch.Partner.Name = partner, partners[partner]
		return submitTo(t, q, batch, lane)
	}
	var tickets []queue.Ticket
	for n := range 40 {
		tickets = append(tickets, submit(1, queue.Later, fmt.Sprintf("a%d-", n), 500))
	}
	store := &gate{Store: r.store, open: make(chan struct{})}
	w := r.worker(t, Options{Store: store, Savers: 1})
	start(t, w.Run)
	heldOf := func(lane queue.Lane, partner int32) int {
		name := lane.Name(&intake.Partner{ID: partner})
		w.backlog.mu.Lock()
		defer w.backlog.mu.Unlock()
		return w.backlog.sizes[name].items
	}
	localtest.Eventually(t, "a saver has begun with the many", func() bool {
		return heldOf(queue.Later, 1) == laneBound.items
	})
	tickets = append(tickets,
		submit(2, queue.Later, "b", 1), submit(3, queue.Waiting, "c", 1), submit(4, queue.Waiting, "d", 1))
	localtest.Eventually(t, "the worker has the others", func() bool {
		return heldOf(queue.Waiting, 3) == 2 && heldOf(queue.Later, 2) == 1
	})
	close(store.open)
	for _, ticket := range tickets {
		waitFor(t, ticket)
	}
	r.wantAllAcked(t)

	at := func(partner int32) int {
		return slices.IndexFunc(store.gathered, func(partners []int32) bool {
			return slices.Contains(partners,
				partner)
		})
	}
	// The first gathering was begun before the others came.
	if first := store.gathered[0]; len(first) > 2 {
		t.Errorf("the first gathering has %d chunks, want 2 at most", len(first))
	}
	if diff := cmp.Diff(map[int32]int{3: 1, 4: 1, 2: 2}, map[int32]int{3: at(3), 4: at(4), 2: at(2)}); diff != "" {
		t.Errorf("gatherings of the partners: -want +got\n%s\nall: %v", diff, store.gathered)
	}
	for _, partners := range store.gathered {
		if n := len(partners); n > 3 {
			t.Errorf("%d chunks that nobody waits for were saved at once", n)
		}
	}
}
