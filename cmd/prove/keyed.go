package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// runKeyed sends a batch with an Idempotency-Key until it is answered. Sometimes it
// sends it twice concurrently: one is taken, and both get the same answer. Sometimes it
// then sends another batch with the same key, which must be refused.
func (l *load) runKeyed(ctx context.Context, random *rand.Rand, items []item, key, prefer string) {
	b := l.newBatch(items)
	b.key = key
	twin := *b
	twin.ends = make([]end, len(items))
	takingOver := l.stack.takingOver.Load()
	if takingOver {
		b.front, twin.front = 1, 2
	}
	var sending sync.WaitGroup
	if takingOver || random.IntN(4) == 0 {
		other := rand.New(rand.NewPCG(random.Uint64(), 0))
		sending.Go(func() { l.send(ctx, other, &twin, prefer) })
		l.countTwin()
	}
	l.send(ctx, random, b, prefer)
	sending.Wait()
	switch {
	case b.answered && twin.answered:
		if !bytes.Equal(b.answer, twin.answer) {
			l.complain("%s, sent twice concurrently, is answered %.300s and %.300s", key, b.answer, twin.answer)
		}
		b.told = min(b.told, twin.told)
	case twin.answered:
		b = &twin
	}
	l.keep(b)
	if b.answered && random.IntN(4) == 0 {
		l.misuse(ctx, random, key, prefer)
	}
}

// misuse sends another batch with a key that was used before.
func (l *load) misuse(ctx context.Context, random *rand.Rand, key, prefer string) {
	other := l.newBatch([]item{{key: "misused-" + key, variant: 1}})
	other.key = key
	asking, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	status, text, err := l.post(asking, l.stack.fronts[random.IntN(2)], other, prefer)
	other.told = time.Since(l.began)
	switch {
	case err != nil:
	case status == http.StatusUnprocessableEntity, status == http.StatusServiceUnavailable,
		status == http.StatusConflict:
	default:
		l.complain("%s, sent with another batch, is answered %d %.300s", key, status, text)
	}
	l.refuse(other) // whatever the answer is
	l.keep(other)
}

func (l *load) countTwin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.twins++
}

// repeat sends batches that had an Idempotency-Key again, mostAsked of them at most. Each
// must get its first answer.
func (l *load) repeat(ctx context.Context, r *Report) error {
	var keyed []*batch
	for _, b := range l.batches {
		if b.key != "" && b.answered {
			keyed = append(keyed, b)
		}
	}
	keyed = spread(keyed, mostAsked)
	r.Keys = len(keyed)
	return each(ctx, keyed, func(ctx context.Context, n int, b *batch) error {
		status, text, err := l.postUntilAnswered(ctx, l.stack.direct[n%2], b)
		if err != nil {
			return err
		}
		if !bytes.Equal(text, b.answer) {
			l.complain("%s is answered %d %.300s, at first %.300s", b.key, status, text, b.answer)
		}
		return nil
	})
}
