package worker

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A drain tells how long it will take the workers to save what is queued, from
// how fast they did so of late.
type drain struct {
	mu        sync.Mutex
	at        time.Time // of the last look
	processed uint64    // messages, until then
	rate      float64   // messages a second
	stalled   bool      // something is queued, and nothing was saved since the look before
	waiting   float64   // messages queued and not processed in the waiting lane,
	all       float64   // and in all lanes
}

// A look is what can be seen of all lanes' consumers.
type look struct{ waiting, all, processed uint64 }

// add counts messages that were queued since the last look.
func (d *drain) add(lane string, messages int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all += float64(messages)
	if lane == waitingLane {
		d.waiting += float64(messages)
	}
}

func (d *drain) see(l look, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	seconds := now.Sub(d.at).Seconds()
	if l.processed < d.processed || seconds > 30 { // a consumer is new, or nobody has looked for long
		d.at, d.processed, d.rate = now, l.processed, 0
	}
	d.waiting, d.all = float64(l.waiting), float64(l.all)
	if seconds = now.Sub(d.at).Seconds(); seconds <= 0 {
		return
	}
	done := float64(l.processed - d.processed)
	d.stalled = l.all > 0 && done == 0
	if busy := d.all > 0; busy || d.rate == 0 {
		// What was saved while there was little to save says nothing of how fast it could be.
		const memory = 3 // seconds
		weight := 1 - math.Exp(-seconds/memory)
		if d.rate == 0 {
			weight = 1
		}
		d.rate += weight * (done/seconds - d.rate)
	}
	d.at, d.processed = now, l.processed
}

// left tells how long it takes to save what is before a batch that comes now. It
// is 0 while nothing is saved at all: then nobody knows.
func (d *drain) left(lane Lane) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.all
	if lane == Waiting {
		before = d.waiting
	}
	if d.stalled || d.rate <= 0 || before == 0 {
		return 0
	}
	return time.Duration(min(before/d.rate, 3600) * float64(time.Second))
}

// Overloaded tells whether more is queued than can be saved within MaxBacklog, and
// then, after how long it won't be. Whatever is queued while nothing is saved at
// all, as when the data store is away, the room of the log alone bounds.
func (q *Queue) Overloaded(lane Lane) (after time.Duration, overloaded bool) {
	left := q.drain.left(lane)
	if left <= q.opts.MaxBacklog {
		return 0, false
	}
	return left - q.opts.MaxBacklog, true
}

// Backlog tells about how long it takes to save what is queued; 0 where that isn't
// known.
func (q *Queue) Backlog() time.Duration { return q.drain.left(Later) }

// watchDrain looks at the consumers every second while batches are submitted.
func (q *Queue) watchDrain(ctx context.Context, stream jetstream.Stream) {
	if time.Since(time.Unix(0, q.submitted.Load())) > 10*time.Second {
		return
	}
	var l look
	consumers := stream.ListConsumers(ctx)
	for info := range consumers.Info() {
		behind := info.NumPending + uint64(info.NumAckPending)
		l.all += behind
		if info.Name == consumerOf(waitingLane) {
			l.waiting = behind
		}
		l.processed += info.Delivered.Consumer - min(uint64(info.NumAckPending), info.Delivered.Consumer)
	}
	if consumers.Err() == nil {
		q.drain.see(l, time.Now())
		q.metrics.backlog.Set(float64(l.all))
	}
}
