package queue

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A drain estimates how long it will take the workers to save what is queued, from
// how fast they have saved in the last seconds.
type backlogEstimate struct {
	mu      sync.Mutex
	seen    look
	at      time.Time // when it was seen
	rate    float64   // messages a second that are saved when there are enough; 0: not known
	limited time.Time // when there were enough last
	stalled bool      // nothing was saved between the last two looks
	waiting float64   // messages queued and not processed in the waiting lane,
	all     float64   // and in all lanes
}

// A look is what can be seen of all lanes' consumers: messages queued and not
// processed in the waiting lane, and in all, and those processed since ever.
type look struct{ waiting, all, processed uint64 }

// add counts messages that were queued since the last look.
func (d *backlogEstimate) add(lane string, messages int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all += float64(messages)
	if lane == WaitingLane {
		d.waiting += float64(messages)
	}
}

func (d *backlogEstimate) see(l look, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before, seconds := d.seen, now.Sub(d.at).Seconds()
	d.seen, d.at = l, now
	d.waiting, d.all = float64(l.waiting), float64(l.all)
	if l.processed < before.processed || seconds <= 0 || seconds > 30 { // a consumer is new, or nobody has looked for long
		d.rate, d.stalled = 0, false
		return
	}
	done, stalled := l.processed-before.processed, d.stalled
	d.stalled = done == 0
	rate := float64(done) / seconds
	// Only if there was more to save than was saved did they save as fast as they
	// could. Else they could do that at least; and what they could is forgotten.
	const memory, forgotten = 3 * time.Second, 10 * time.Second
	limited := before.all > done
	switch {
	case d.stalled || stalled && limited: // for a part of the time at least
		return
	case limited:
		d.limited = now
	case now.Sub(d.limited) > forgotten:
		d.rate = 0
		return
	case rate < d.rate:
		return
	}
	weight := 1 - math.Exp(-seconds/memory.Seconds())
	if d.rate == 0 {
		weight = 1
	}
	d.rate += weight * (rate - d.rate)
}

// fresh is how long a look counts. What nobody has looked at since is not known.
const fresh = 5 * time.Second

// left returns how long it takes to save what is before a batch that comes now. It
// is 0 where that is not known: while nothing is saved at all, and when the last look
// is not fresh. It is 0 for a few messages, too, which are no backlog.
func (d *backlogEstimate) left(lane Lane, now time.Time) time.Duration {
	const few = 8
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.all
	if lane == Waiting {
		before = d.waiting
	}
	if d.stalled || d.rate <= 0 || before <= few || now.Sub(d.at) > fresh {
		return 0
	}
	return time.Duration(min(before/d.rate, 3600) * float64(time.Second))
}

// Overloaded reports whether more is queued than can be saved within MaxBacklog, and
// if so, after how long it won't be. It keeps the queue looked at: a front that refuses
// everything must see when it need not refuse any more. Whatever is queued while
// nothing is saved at all, as when the data store is away, the room of the log alone
// bounds.
func (q *Queue) Overloaded(lane Lane) (after time.Duration, overloaded bool) {
	now := time.Now()
	q.asked.Store(now.UnixNano())
	left := q.drain.left(lane, now)
	if left <= q.opts.MaxBacklog {
		return 0, false
	}
	return left - q.opts.MaxBacklog, true
}

// Backlog returns about how long it takes to save what is queued; 0 where that isn't
// known.
func (q *Queue) Backlog() time.Duration { return q.drain.left(Later, time.Now()) }

// watchDrain looks at the consumers while batches come, whether they are submitted or
// refused.
func (q *Queue) watchDrain(ctx context.Context, stream jetstream.Stream) {
	if time.Since(time.Unix(0, q.asked.Load())) > 10*time.Second {
		return
	}
	consumers, err := LaneConsumers(ctx, stream)
	if err != nil {
		return
	}
	var l look
	for _, info := range consumers {
		// A message that is handed back again and again holds up no others.
		held := uint64(max(info.NumAckPending-info.NumRedelivered, 0))
		behind := info.NumPending + held
		l.all += behind
		if info.Name == ConsumerName(WaitingLane) {
			l.waiting = behind
		}
		l.processed += info.Delivered.Consumer - min(uint64(info.NumAckPending), info.Delivered.Consumer)
	}
	q.drain.see(l, time.Now())
	q.metrics.backlog.Set(float64(l.all))
}
