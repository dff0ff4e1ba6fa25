package worker

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"intake"
	"intake/internal/local/localtest"
	"intake/worker/queue"
)

// A store that is down for long makes no message a suspect: they are saved
// together when it is back.
func TestWorker_StoreAwayForLong(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, queue.Options{Ledger: silentLedger{r.store}})
	tickets := []queue.Ticket{submit(t, q, newBatch("a")), submit(t, q, newBatch("b"))}
	store := &awayStore{Store: r.store}
	store.away.Store(true)
	w := r.worker(t, Options{Store: store})
	w.patience = time.Millisecond
	start(t, w.Run)
	localtest.Eventually(t, "many tries", func() bool { return store.tries.Load() >= 10 })
	store.away.Store(false)
	for _, ticket := range tickets {
		waitFor(t, ticket)
	}
	if n := testutil.ToFloat64(w.metrics.redelivered); n != 0 {
		t.Errorf("%v messages were handed back while the store was away", n)
	}
}

// An awayStore is one that can't be reached for a while.
type awayStore struct {
	Store
	away  atomic.Bool
	tries atomic.Int64
}

func (s *awayStore) Save(ctx context.Context, chunks []*intake.Chunk) (intake.Saved, error) {
	if s.tries.Add(1); s.away.Load() {
		return intake.Saved{}, errors.New("the store is down")
	}
	return s.Store.Save(ctx, chunks)
}

func (s *awayStore) Ping(ctx context.Context) error {
	if s.away.Load() {
		return errors.New("the store is down")
	}
	return s.Store.Ping(ctx)
}
