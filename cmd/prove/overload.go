package main

import (
	"context"
	"errors"
	"fmt"
	"intake/internal/sleep"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// maxBacklog is the fronts'.
const maxBacklog = 2 * time.Second

// An overload is overloadMessages messages. They fill most of a log of overloadBytes,
// so that saved ones are purged soon, and a worker with a slow connection to Postgres
// needs much longer than maxBacklog to save them.
const (
	overloadMessages = 500
	overloadBytes    = 4 << 20
)

// overload checks that fronts refuse batches while too much is queued, and serve every
// kind of client again soon after.
//
//  1. Postgres is down while clients that don't wait go on sending, until more is queued
//     than can be saved in time.
//  2. Postgres is slow, with one worker left, and the fronts refuse those clients.
//  3. All is repaired.
//
// The log is small meanwhile, so that batches are purged piece by piece, and their
// status is asked for.
func (l *load) overload(ctx context.Context, r *Report) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	s := l.stack
	if err := s.waitAcknowledged(ctx); err != nil {
		return err
	}
	if err := s.emptyLog(ctx, overloadBytes); err != nil {
		return err
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	asking, stopAsking := context.WithCancel(ctx)
	defer stopAsking()
	watching.Go(func() { l.watchPieces(asking) })
	s.postgres.Kill()
	if err := l.fill(ctx); err != nil {
		return err
	}
	heal, err := s.hinderWorkers()
	if err != nil {
		return err
	}
	if err := s.postgres.Start(ctx); err != nil {
		return err
	}
	r.Overloaded += l.knockWhileRefused(ctx)
	if err := heal(); err != nil {
		return err
	}
	if err := l.checkAdmission(ctx, r, "an overload"); err != nil {
		return err
	}
	return s.withStream(ctx, func(js jetstream.JetStream, stream jetstream.Stream) error {
		return limitStream(ctx, js, stream, queueBytes)
	})
}

// emptyLog purges the log, of which all must be acknowledged, and sets its size.
func (s *stack) emptyLog(ctx context.Context, bytes int64) error {
	return s.withStream(ctx, func(js jetstream.JetStream, stream jetstream.Stream) error {
		if err := stream.Purge(ctx); err != nil {
			return err
		}
		return limitStream(ctx, js, stream, bytes)
	})
}

// hinderWorkers kills all workers but the first, and slows down its connection to
// Postgres.
func (s *stack) hinderWorkers() (heal func() error, err error) {
	var slowed []*link
	for _, l := range s.links {
		if strings.HasPrefix(l.name, "worker-1 to postgres") {
			_, err = l.proxy.Toxics.AddToxicJson(strings.NewReader(`{"name":"slow","type":"latency","attributes":{"latency":150}}`))
			slowed = append(slowed, l)
		}
	}
	var killed []*part
	for _, p := range s.parts {
		if strings.HasPrefix(p.name, "worker-") && p.name != "worker-1" {
			err = errors.Join(err, p.kill())
			killed = append(killed, p)
		}
	}
	return func() (err error) {
		for _, l := range slowed {
			l.proxy.Toxics.ResetToxics(context.Background())
		}
		for _, p := range killed {
			err = errors.Join(err, p.begin())
		}
		return err
	}, err
}

// fill sends batches with respond-async, small ones and ones that are queued in pieces,
// until overloadMessages are queued.
func (l *load) fill(ctx context.Context) error {
	filling, filled := context.WithTimeout(ctx, time.Minute)
	defer filled()
	var clients sync.WaitGroup
	for client := range 4 {
		clients.Go(func() {
			for n := 0; filling.Err() == nil; n++ {
				size := 1
				if n%2 == 0 {
					size = piecesItems
				}
				b := l.newBatch(newItems(fmt.Sprintf("fill-%d-%d", client, n), size))
				taken := l.sendOnce(ctx, l.stack.direct[client%2], b, "respond-async")
				l.keep(b)
				if !taken { // the log has no room until what is processed is purged
					sleep.For(filling, 100*time.Millisecond)
				}
			}
		})
	}
	defer clients.Wait()
	for {
		left, _, err := l.stack.unacknowledged(ctx)
		if err == nil && left >= overloadMessages {
			filled()
			return nil
		}
		if !sleep.For(filling, 100*time.Millisecond) {
			return fmt.Errorf("only %d messages are queued while Postgres is down (%v)", left, err)
		}
	}
}

// knockWhileRefused sends batches with respond-async until each front has refused all of
// them for 12 s. By then a front that looks at the queue only when it takes a batch has
// stopped looking. It returns how many were refused.
func (l *load) knockWhileRefused(ctx context.Context) int {
	const long, longest = 12 * time.Second, 30 * time.Second
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	var refusals atomic.Int64
	var fronts sync.WaitGroup
	for n, front := range l.stack.direct {
		fronts.Go(func() {
			taken := time.Now()
			for try := 0; time.Since(taken) < long; try++ {
				if l.knock(ctx, front, kinds[0], fmt.Sprintf("overload-%d-%d", n, try)) {
					taken = time.Now()
				} else {
					refusals.Add(1)
				}
				if !sleep.For(ctx, 200*time.Millisecond) {
					return
				}
			}
		})
	}
	fronts.Wait()
	return int(refusals.Load())
}
