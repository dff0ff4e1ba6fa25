package dedupe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
	"go.uber.org/zap"

	"intake"
)

// keysPerTrip bounds the keys of one round trip. With several thousand, a few large
// batches that ask concurrently would all time out and open the breaker. In parts, each
// gets the answers that there is time for.
const keysPerTrip = 1_000

// Ask sets seen to what is known of the clients' keys, one entry per client. It takes a
// round trip per thousand keys; concurrent asks of few keys share one. Ask never fails:
// keys without an answer in time are [NotSeen].
func (s *SeenSet) Ask(ctx context.Context, partner int32, clients []*intake.PartnerClient, seen []Seen) {
	clear(seen)
	if s == nil || len(clients) == 0 {
		return
	}
	timeline, ok := s.currentTimeline()
	if !ok {
		s.metrics.asks.WithLabelValues("skipped").Inc()
		return
	}
	began := time.Now()
	partly := false
	_, err := s.breaker.Execute(func() (struct{}, error) {
		if len(clients) > fewKeys {
			if !s.beginLargeAsk(ctx) {
				return struct{}{}, errTooManyAsks
			}
			defer s.endLargeAsk()
		}
		asking, cancel := context.WithTimeout(ctx, s.opts.AskTimeout)
		defer cancel()
		answered, err := s.ask(asking, timeline, partner, clients, seen)
		switch deadline, ok := ctx.Deadline(); {
		case err == nil:
		case answered > 0 && isTimeout(err):
			partly, err = true, nil
		case ok && !time.Now().Before(deadline):
			err = fmt.Errorf("%w: %w", errHurry, err)
		}
		return struct{}{}, err
	})
	switch {
	case partly:
		s.metrics.asks.WithLabelValues("partly").Inc()
		return
	case err == nil:
		s.metrics.askSeconds.Observe(time.Since(began).Seconds())
		s.metrics.asks.WithLabelValues("answered").Inc()
		return
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests), err == errTooManyAsks:
		s.metrics.asks.WithLabelValues("skipped").Inc()
	default:
		s.metrics.asks.WithLabelValues("failed").Inc()
		s.opts.Logger.Debug("cannot ask redis", zap.Error(err))
	}
	clear(seen)
}

// maxLargeAsks bounds the asks of more than fewKeys that run concurrently. Redis answers
// one after the other anyway. If many share the connections and the processors, each
// takes as long as all of them together, and times out.
const maxLargeAsks = 2

// errTooManyAsks is the error of a large ask that could not begin in time. It says
// nothing about Redis.
var errTooManyAsks = errors.New("too many large asks are running")

// beginLargeAsk waits at most AskTimeout for another large ask to end, and reports
// whether the caller may begin. It must call endLargeAsk then.
func (s *SeenSet) beginLargeAsk(ctx context.Context) bool {
	select {
	case s.largeAsks <- struct{}{}:
		return true
	default:
	}
	enough := time.NewTimer(s.opts.AskTimeout)
	defer enough.Stop()
	select {
	case s.largeAsks <- struct{}{}:
		return true
	case <-enough.C:
	case <-ctx.Done():
	}
	return false
}

func (s *SeenSet) endLargeAsk() { <-s.largeAsks }

// errHurry is the error of an ask whose caller had less time than AskTimeout.
var errHurry = errors.New("the caller's deadline has passed")

// isTimeout reports whether an error is that of a deadline.
func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// ask returns the number of keys that were answered before an error.
func (s *SeenSet) ask(
	ctx context.Context, timeline string, partner int32, clients []*intake.PartnerClient, seen []Seen,
) (answered int, err error) {
	slots := slotterOf(timeline)
	for some := range slices.Chunk(clients, keysPerTrip) {
		text := make([]byte, 0, len(some)*slots.size()+intake.MaxIDChars)
		for _, client := range some {
			text = slots.appendSlot(text, partner, client.ID)
		}
		q := newQuestion(ctx, slots, string(text))
		if len(clients) <= fewKeys {
			err = s.together.ask(ctx, q)
		} else {
			pipeline := s.client.Pipeline()
			q.put(ctx, pipeline)
			err = exec(ctx, pipeline)
		}
		if err != nil {
			return answered, err
		}
		for i, client := range some {
			seen[answered+i] = q.seen(i, &client.Fingerprint)
		}
		answered += len(some)
	}
	return answered, nil
}

// A question looks up some slots.
type question struct {
	commands []*redis.StringCmd
	done     chan error // set if it shares a round trip
}

func newQuestion(ctx context.Context, slots slotter, text string) *question {
	args := commandsOf("hget", text, slots.nameSize, fieldSize)
	q := &question{commands: make([]*redis.StringCmd, len(text)/slots.size())}
	for i := range q.commands {
		q.commands[i] = redis.NewStringCmd(ctx, args[3*i:3*i+3]...)
	}
	return q
}

func (q *question) put(ctx context.Context, pipeline redis.Pipeliner) {
	for _, command := range q.commands {
		_ = pipeline.Process(ctx, command) // it is only queued
	}
}

// seen returns what is known of the key of a slot, and of its data.
func (q *question) seen(i int, data *intake.Fingerprint) Seen {
	saved, err := q.commands[i].Result()
	switch {
	case err != nil || len(saved) != dataSize:
		return NotSeen
	case saved == string(data[:]):
		return SeenSame
	}
	return SeenDifferent
}
