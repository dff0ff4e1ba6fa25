package queue

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"intake"
	"intake/internal/sleep"
)

func (q *Queue) remember(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiters[w.id] = w
}

func (q *Queue) forget(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.waiters, w.id)
}

// receive delivers the outcomes in a message from a worker.
func (q *Queue) receive(msg *nats.Msg) {
	if err := readOutcomes(msg.Data, q.deliver); err != nil {
		q.opts.Logger.Warn("cannot read outcomes", zap.Error(err))
	}
}

func (q *Queue) deliver(outcome intake.Outcome) {
	q.mu.Lock()
	w := q.waiters[outcome.Batch]
	q.mu.Unlock()
	if w != nil {
		w.deliver(outcome)
	}
}

// readLedger reads the outcomes of batches that have waited for more than a second from the data
// store, until ctx ends: the worker's message may be lost, or the worker may have died before it sent
// one.
func (q *Queue) readLedger(ctx context.Context) {
	const (
		every      = 500 * time.Millisecond
		overdue    = time.Second
		maxBatches = 1_000 // of one query
	)
	for sleep.For(ctx, every) {
		batches := q.waitingLonger(overdue, maxBatches)
		if len(batches) == 0 {
			continue
		}
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		outcomes, err := q.opts.Ledger.Outcomes(try, batches)
		cancel()
		if err != nil {
			q.opts.Logger.Debug("cannot read outcomes from the data store, trying again", zap.Error(err))
		}
		for _, outcome := range outcomes {
			q.deliver(outcome)
		}
	}
}

// waitingLonger returns batches, limit at most, that have waited for longer than d.
func (q *Queue) waitingLonger(d time.Duration, limit int) (batches []uuid.UUID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for id, w := range q.waiters {
		if len(batches) == limit {
			break
		}
		if time.Since(w.since) > d {
			batches = append(batches, id)
		}
	}
	return batches
}
