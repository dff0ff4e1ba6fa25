package main

import (
	"context"
	"errors"
	"fmt"
	"intake/internal/sleep"
	"math/rand/v2"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// mostAsked bounds how many final batches are checked again after all faults, and how
// many are sent again.
const mostAsked = 20_000

var errPending = errors.New("it is pending")

// watch checks the status of recent batches at either front while faults are made. A
// state that was answered must not change.
func (l *load) watch(ctx context.Context) {
	random := rand.New(rand.NewPCG(l.seed, 8))
	for !l.ended.Load() && sleep.For(ctx, 20*time.Millisecond) {
		if b := l.pick(random); b != nil {
			l.ask(ctx, l.stack.fronts[random.IntN(2)], b)
		}
	}
}

// ask checks the status of a batch while faults are made.
func (l *load) ask(ctx context.Context, front string, b *batch) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	ends, err := l.status(ctx, front, b)
	if ends != nil {
		l.note(b, ends)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case ends != nil:
		l.watched++
	case errors.Is(err, errPending):
		l.waited++
	}
}

// pick returns one of the batches that were answered last; nil if there is none.
func (l *load) pick(random *rand.Rand) *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	late := l.named[max(0, len(l.named)-2_000):]
	if len(late) == 0 {
		return nil
	}
	return late[random.IntN(len(late))]
}

// status checks a batch's status. It returns the ends of its items if they are final,
// errPending if not, and another error if there is no such answer.
func (l *load) status(ctx context.Context, front string, b *batch) ([]end, error) {
	status, text, err := outcome(l.clients[front].Status(ctx, b.id))
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusServiceUnavailable:
		return nil, fmt.Errorf("%d %.200s", status, text)
	case status != http.StatusOK:
		l.complain("the status of batch %s is answered %d %.200s", b.id, status, text)
		return nil, fmt.Errorf("%d %.200s", status, text)
	}
	ends, _, pending, err := readEnds(text, b.items)
	switch {
	case err != nil:
		l.complain("the status of batch %s: %v", b.id, err)
		return nil, err
	case pending:
		return nil, errPending
	}
	return ends, nil
}

// note compares the final status of a batch with earlier answers.
func (l *load) note(b *batch, ends []end) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range ends {
		if b.ends[i] != unknown && b.ends[i] != ends[i] {
			l.wrong = append(l.wrong, fmt.Sprintf("batch %s: item %d was %s and is %s", b.id, i, b.ends[i], ends[i]))
		}
	}
	if b.pending {
		b.ends, b.told, b.pending = ends, time.Since(l.began), false
	}
}

// settle waits until every batch is final, and checks that those which were final are
// unchanged; no more than mostAsked of them.
func (l *load) settle(ctx context.Context, r *Report) error {
	var pending, final []*batch
	for _, b := range l.named {
		if b.pending {
			pending = append(pending, b)
		} else {
			final = append(final, b)
		}
	}
	asked := append(pending, spread(final, mostAsked)...)
	r.Asked = len(asked)
	return each(ctx, asked, func(ctx context.Context, n int, b *batch) error { return l.waitFinal(ctx, n, b) })
}

// waitFinal checks a batch's status until it is final.
func (l *load) waitFinal(ctx context.Context, n int, b *batch) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		ends, err := l.status(ctx, l.stack.direct[n%2], b)
		if err == nil {
			l.note(b, ends)
			return nil
		}
		if !sleep.For(ctx, 100*time.Millisecond) {
			return fmt.Errorf("batch %s does not become final: %w", b.id, err)
		}
	}
}

// spread returns at most a number of the batches, evenly spread.
func spread(batches []*batch, most int) []*batch {
	if len(batches) <= most {
		return batches
	}
	some := make([]*batch, most)
	for i := range some {
		some[i] = batches[i*len(batches)/most]
	}
	return some
}

// each calls do for each of the batches, several concurrently, until one fails.
func each(ctx context.Context, batches []*batch, do func(ctx context.Context, n int, b *batch) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(loadClients)
	for n, b := range batches {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return do(ctx, n, b)
		})
	}
	return group.Wait()
}
