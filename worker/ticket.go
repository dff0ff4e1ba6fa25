package worker

import (
	"context"
	"time"

	"intake"
)

// A Ticket is a batch that was submitted. Its methods are for one goroutine.
type Ticket struct {
	queue    *Queue
	batch    *intake.Batch
	since    time.Time
	outcomes chan intake.Outcome
	open     map[int]bool // chunks without an outcome yet
}

func newTicket(q *Queue, batch *intake.Batch, chunks []*intake.Chunk) *Ticket {
	t := &Ticket{
		queue: q, batch: batch, since: time.Now(),
		// A chunk's outcome may come more than once: from each delivery, and
		// from the data store.
		outcomes: make(chan intake.Outcome, 4*len(chunks)),
		open:     make(map[int]bool, len(chunks)),
	}
	for _, chunk := range chunks {
		t.open[chunk.Number] = true
	}
	return t
}

// deliver hands the ticket an outcome, from any goroutine. One too many is
// dropped: the data store has it.
func (t *Ticket) deliver(outcome intake.Outcome) {
	select {
	case t.outcomes <- outcome:
	default:
	}
}

// Wait fills the batch's verdicts as the outcomes of its chunks arrive. It
// returns true when all of them have, and false when ctx ends before. When ctx
// has ended already no outcome is looked at, though the worker may have been
// quicker than the queue's answer: a batch that nobody waits for is Pending.
func (t *Ticket) Wait(ctx context.Context) bool {
	for len(t.open) > 0 && ctx.Err() == nil {
		select {
		case outcome := <-t.outcomes:
			t.apply(outcome)
		case <-ctx.Done():
		}
	}
	return len(t.open) == 0
}

func (t *Ticket) apply(outcome intake.Outcome) {
	verdicts := t.batch.Verdicts
	if !t.open[outcome.Chunk] || outcome.Withdrawn || outcome.First+outcome.Len > len(verdicts) {
		return
	}
	delete(t.open, outcome.Chunk)
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

// Release ends the waiting. The batch is saved all the same.
func (t *Ticket) Release() { t.queue.forget(t) }
