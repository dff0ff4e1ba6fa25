package front

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"

	"intake/worker"
)

// admit refuses a batch that comes while more is queued than can be saved in good
// time: before it is read, so that refusing takes little from saving.
func (f *Front) admit(prefer *preferences) *problem {
	if prefer.validate { // it won't be queued
		return nil
	}
	after, overloaded := f.opts.Queue.Overloaded(prefer.lane())
	if !overloaded {
		return nil
	}
	return &problem{
		status: http.StatusServiceUnavailable, retryAfter: comeBack(after),
		detail: "more is queued than can be saved in good time; nothing of this request was saved or queued",
	}
}

// admitLine has a line of a stream wait until it is admitted, which slows the
// stream down, and only then refuses it.
func (f *Front) admitLine(ctx context.Context, prefer *preferences) *problem {
	var refusal *problem
	waitRoom(ctx, func() bool {
		refusal = f.admit(prefer)
		return refusal == nil
	})
	return refusal
}

// hangUp has the connection of a request that is refused closed with the answer,
// if its body is large: reading it to its end would take longer than another
// connection does.
func hangUp(w http.ResponseWriter, r *http.Request) {
	const large = 32 << 10
	if r.ContentLength < 0 || r.ContentLength > large {
		w.Header().Set("Connection", "close")
	}
}

// full is errFull, with the time by which what is queued should be saved.
func (f *Front) full() *problem {
	p := errFull
	p.retryAfter = comeBack(f.opts.Queue.Backlog())
	return &p
}

// comeBack makes a Retry-After of an estimate. Not all come back at once.
func comeBack(estimate time.Duration) time.Duration {
	const least, most = time.Second, time.Minute
	estimate += rand.N(estimate/4 + 1)
	return min(max(estimate, least), most)
}

// lane is where a batch is queued for which a client waits so long.
func (p *preferences) lane() worker.Lane {
	if p.wait == 0 {
		return worker.Later
	}
	return worker.Waiting
}
