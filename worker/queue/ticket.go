package queue

import (
	"context"
	"time"

	"github.com/google/uuid"

	"intake"
)

// A Ticket stands for a batch that is queued. It is for one goroutine.
type Ticket interface {
	// ID returns the batch's ID, which its status is asked for with.
	ID() uuid.UUID
	// Wait fills in the batch's verdicts as the outcomes of its chunks arrive. It returns true when
	// all have arrived, and false when ctx ends first. If ctx has ended before, Wait changes no
	// verdict, even where a worker was quicker than the queue's answer: a batch that nobody waits for
	// is Pending.
	Wait(ctx context.Context) bool
	// Release ends the waiting. The batch is saved all the same.
	Release()
}

// A waiter is the Ticket of a batch. Any goroutine may deliver outcomes to it.
type waiter struct {
	queue    *Queue
	id       uuid.UUID // set by the publisher, before it publishes the batch
	batch    *intake.Batch
	since    time.Time
	outcomes chan intake.Outcome
	open     map[int]bool // chunks without an outcome
}

func newWaiter(q *Queue, batch *intake.Batch, chunks []*intake.Chunk) *waiter {
	w := &waiter{
		queue: q, batch: batch, since: time.Now(),
		// A chunk's outcome may come several times: once for each delivery, and from the ledger.
		outcomes: make(chan intake.Outcome, 4*len(chunks)),
		open:     make(map[int]bool, len(chunks)),
	}
	for _, chunk := range chunks {
		w.open[chunk.Number] = true
	}
	return w
}

// deliver hands an outcome to the waiter, or drops it if its buffer is full: the ledger has it.
func (w *waiter) deliver(outcome intake.Outcome) {
	select {
	case w.outcomes <- outcome:
	default:
	}
}

// ID implements [Ticket].
func (w *waiter) ID() uuid.UUID { return w.id }

// Wait implements [Ticket].
func (w *waiter) Wait(ctx context.Context) bool {
	for len(w.open) > 0 && ctx.Err() == nil {
		select {
		case outcome := <-w.outcomes:
			w.apply(outcome)
		case <-ctx.Done():
		}
	}
	return len(w.open) == 0
}

func (w *waiter) apply(outcome intake.Outcome) {
	verdicts := w.batch.Verdicts
	if !w.open[outcome.Chunk] || outcome.Withdrawn || outcome.First+outcome.Len > len(verdicts) {
		return
	}
	delete(w.open, outcome.Chunk)
	for _, v := range outcome.NotSaved {
		if v.Item >= outcome.First && v.Item < outcome.First+outcome.Len {
			verdicts[v.Item] = v.Verdict
		}
	}
	for item := outcome.First; item < outcome.First+outcome.Len; item++ {
		if verdicts[item].Code == intake.CodePending {
			verdicts[item].Code = intake.CodeSaved
		}
	}
}

// Release implements [Ticket].
func (w *waiter) Release() { w.queue.forget(w) }
