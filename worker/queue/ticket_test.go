package queue

import (
	"context"
	"testing"

	"intake"
)

// A batch that nobody waits for is Pending, even if the worker was quicker than the queue's answer.
func TestTicket_NobodyWaits(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		batch := newBatch("a")
		ticket := newWaiter(nil, batch, []*intake.Chunk{{Number: 1}})
		ticket.deliver(intake.Outcome{Chunk: 1, Len: 1})
		if ticket.Wait(over) || batch.Verdicts[0].Code != intake.CodePending {
			t.Fatalf("after no wait the item is %v", batch.Verdicts[0].Code)
		}
		if !ticket.Wait(t.Context()) || batch.Verdicts[0].Code != intake.CodeSaved {
			t.Fatalf("after a wait the item is %v", batch.Verdicts[0].Code)
		}
	}
}
