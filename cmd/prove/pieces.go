package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// maxPayload bounds a message to NATS, in bytes, so that batches are queued in
	// pieces that have a few hundred items only.
	maxPayload = 16 << 10
	// piecesItems are queued in some fifteen pieces.
	piecesItems = 2_000
	// fewestInPieces are queued in several pieces.
	fewestInPieces = 400
)

// newItems makes up items that nobody else sends.
func newItems(name string, n int) []item {
	items := make([]item, n)
	for i := range items {
		items[i] = item{key: fmt.Sprintf("%s-%d", name, i), variant: 1 + i%variants}
	}
	return items
}

// runPieces sends batches that are queued in pieces, and doesn't wait for them.
func (l *load) runPieces(ctx context.Context) {
	random := rand.New(rand.NewPCG(l.seed, 9))
	for n := 0; !l.ended.Load() && sleep(ctx, 3*time.Second); n++ {
		b := l.newBatch(newItems(fmt.Sprintf("pieces-%d", n), piecesItems))
		l.send(ctx, random, b, "respond-async")
		l.keep(b)
	}
}

// watchPieces asks for the status of batches that were queued in pieces while they
// are saved: none of them is unknown, however many of its pieces are saved, and
// purged from the log.
func (l *load) watchPieces(ctx context.Context) {
	for n := 0; sleep(ctx, 20*time.Millisecond); n++ {
		for _, b := range l.inPieces(2) {
			l.ask(ctx, l.stack.fronts[n%2], b)
		}
	}
}

// inPieces returns the first of the batches that were queued in pieces and are not
// final, as far as is known.
func (l *load) inPieces(most int) (batches []*batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.named {
		if b.pending && len(b.items) >= fewestInPieces {
			if batches = append(batches, b); len(batches) == most {
				break
			}
		}
	}
	return batches
}
