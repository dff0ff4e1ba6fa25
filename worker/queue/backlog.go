package queue

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A backlogEstimate estimates how long the workers will take to save what is queued, from how fast they
// have saved in the last seconds.
type backlogEstimate struct {
	mu      sync.Mutex
	seen    look
	at      time.Time // of seen
	rate    float64   // messages a second that workers save when there are enough; 0 if unknown
	limited time.Time // when there were last enough
	stalled bool      // nothing was saved between the last two looks
	waiting float64   // messages queued and not processed in the waiting lane,
	all     float64   // and in all lanes
}

// A look is what the consumers of all lanes show: messages that are queued and not processed, in the
// waiting lane and in all, and messages that were ever processed.
type look struct{ waiting, all, processed uint64 }

// add counts messages that were queued since the last look.
func (e *backlogEstimate) add(lane string, messages int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all += float64(messages)
	if lane == WaitingLane {
		e.waiting += float64(messages)
	}
}

// update takes in a new look.
func (e *backlogEstimate) update(l look, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before, seconds := e.seen, now.Sub(e.at).Seconds()
	e.seen, e.at = l, now
	e.waiting, e.all = float64(l.waiting), float64(l.all)
	if l.processed < before.processed || seconds <= 0 || seconds > 30 { // a consumer is new, or the last look is old
		e.rate, e.stalled = 0, false
		return
	}
	done, stalled := l.processed-before.processed, e.stalled
	e.stalled = done == 0
	rate := float64(done) / seconds
	// The workers were at their limit only if there was more to save than they saved. Otherwise the
	// rate is a lower bound, and after a while the limit counts as unknown.
	const memory, forgotten = 3 * time.Second, 10 * time.Second
	limited := before.all > done
	switch {
	case e.stalled || stalled && limited: // at least for a part of the time
		return
	case limited:
		e.limited = now
	case now.Sub(e.limited) > forgotten:
		e.rate = 0
		return
	case rate < e.rate:
		return
	}
	weight := 1 - math.Exp(-seconds/memory.Seconds())
	if e.rate == 0 {
		weight = 1
	}
	e.rate += weight * (rate - e.rate)
}

// fresh is how long a look counts. After that the backlog is unknown.
const fresh = 5 * time.Second

// left returns how long it takes to save what is ahead of a batch that comes now. It returns 0 if that
// is unknown, because nothing is being saved or the last look is not fresh, and for a few messages,
// which are no backlog.
func (e *backlogEstimate) left(lane Lane, now time.Time) time.Duration {
	const few = 8
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.all
	if lane == Waiting {
		before = e.waiting
	}
	if e.stalled || e.rate <= 0 || before <= few || now.Sub(e.at) > fresh {
		return 0
	}
	return time.Duration(min(before/e.rate, 3600) * float64(time.Second))
}

// Overloaded reports whether more is queued in a lane than can be saved within MaxBacklog, and if so,
// after how long it no longer will be. Asking keeps the estimate up to date: a front that refuses
// everything has to notice when it can stop. While nothing is saved at all, as when the data store is
// down, only the size of the log bounds what is queued.
func (q *Queue) Overloaded(lane Lane) (after time.Duration, overloaded bool) {
	now := time.Now()
	q.asked.Store(now.UnixNano())
	left := q.backlog.left(lane, now)
	if left <= q.opts.MaxBacklog {
		return 0, false
	}
	return left - q.opts.MaxBacklog, true
}

// Backlog returns about how long it takes to save what is queued, or 0 if that is unknown.
func (q *Queue) Backlog() time.Duration { return q.backlog.left(Later, time.Now()) }

// updateBacklog looks at the consumers, if a batch was submitted or refused in the last ten seconds.
func (q *Queue) updateBacklog(ctx context.Context, stream jetstream.Stream) {
	if time.Since(time.Unix(0, q.asked.Load())) > 10*time.Second {
		return
	}
	consumers, err := LaneConsumers(ctx, stream)
	if err != nil {
		return
	}
	var l look
	for _, info := range consumers {
		// A message that is redelivered again and again holds up no others.
		held := uint64(max(info.NumAckPending-info.NumRedelivered, 0))
		behind := info.NumPending + held
		l.all += behind
		if info.Name == ConsumerName(WaitingLane) {
			l.waiting = behind
		}
		l.processed += info.Delivered.Consumer - min(uint64(info.NumAckPending), info.Delivered.Consumer)
	}
	q.backlog.update(l, time.Now())
	q.metrics.backlog.Set(float64(l.all))
}
