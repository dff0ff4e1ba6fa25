package main

import (
	"context"
	"fmt"
	"intake/internal/sleep"
	"math/rand/v2"
	"time"
)

const (
	// maxPayload bounds a message to NATS, in bytes, so that large batches are queued in
	// pieces of a few hundred items.
	maxPayload = 16 << 10
	// piecesItems items are queued in about fifteen pieces.
	piecesItems = 2_000
	// fewestInPieces items are queued in several pieces.
	fewestInPieces = 400
)

// newItems returns items with keys of their own.
func newItems(name string, n int) []item {
	items := make([]item, n)
	for i := range items {
		items[i] = item{key: fmt.Sprintf("%s-%d", name, i), variant: 1 + i%variants}
	}
	return items
}

// runPieces sends batches that are queued in pieces, with respond-async.
func (l *load) runPieces(ctx context.Context) {
	random := rand.New(rand.NewPCG(l.seed, 9))
	for n := 0; !l.ended.Load() && sleep.For(ctx, 3*time.Second); n++ {
		b := l.newBatch(newItems(fmt.Sprintf("pieces-%d", n), piecesItems))
		l.send(ctx, random, b, "respond-async")
		l.keep(b)
	}
}

// watchPieces checks the status of batches in pieces while they are saved. None may be
// unknown, however many of its pieces are saved and purged from the log.
func (l *load) watchPieces(ctx context.Context) {
	for n := 0; sleep.For(ctx, 20*time.Millisecond); n++ {
		for _, b := range l.inPieces(2) {
			l.ask(ctx, l.stack.fronts[n%2], b)
		}
	}
}

// inPieces returns the first batches in pieces that are not known to be final.
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
