package front

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"time"

	"intake"
	"intake/cmd/intake/internal/limit"
)

// usage is what a partner has used of its rate.
type usage struct {
	limit.Usage
	burst int
}

// set writes it into an answer's header; nothing for a partner without a limit.
func (u *usage) set(header http.Header) {
	if u == nil {
		return
	}
	header.Set("RateLimit-Limit", strconv.Itoa(u.burst))
	header.Set("RateLimit-Remaining", strconv.Itoa(u.Remaining))
	header.Set("RateLimit-Reset", strconv.Itoa(int(math.Ceil(u.Reset.Seconds()))))
}

func limitProblem(exceeded *limit.Exceeded) *problem {
	return &problem{
		code: problemCode(exceeded.Limit), retryAfter: exceeded.After, detail: exceeded.Detail,
	}
}

// readLimited reads a request's body if the partner may have one more in flight.
// The pass must be given back.
func (f *Front) readLimited(w http.ResponseWriter, r *http.Request, partner *intake.Partner, share *share) (*[]byte, *limit.Pass, *problem) {
	if exceeded := f.opts.Limiter.Blocked(partner); exceeded != nil {
		return nil, nil, limitProblem(exceeded)
	}
	pass, exceeded := f.opts.Limiter.Enter(r.Context(), partner, max(r.ContentLength, minBodyBuffer))
	if exceeded != nil {
		return nil, nil, limitProblem(exceeded)
	}
	body, refusal := f.readBody(w, r, share, pass)
	if refusal == nil {
		if exceeded = pass.Settle(r.Context()); exceeded == nil {
			return body, pass, nil
		}
		putBody(body)
		refusal = limitProblem(exceeded)
	}
	pass.Leave()
	return nil, nil, refusal
}

// linePatience is how long a line of a stream waits for its partner's limits, also
// where that won't do: the stream is slowed down, and only then is the line refused.
const linePatience = 10 * time.Second

// patiently tries until a limit is not exceeded any more, or patience ends, or the
// front stops.
func (f *Front) patiently(ctx context.Context, patience time.Duration, try func() *limit.Exceeded) *limit.Exceeded {
	for until := time.Now().Add(patience); ; {
		exceeded, left := try(), time.Until(until)
		if exceeded == nil || left <= 0 {
			return exceeded
		}
		select {
		case <-time.After(min(exceeded.After, left)):
		case <-f.closing:
			return exceeded
		case <-ctx.Done():
			return exceeded
		}
	}
}

// enter lets a request without a body in, or a stream, if the partner may have one
// more in flight. The pass must be given back.
func (f *Front) enter(ctx context.Context, partner *intake.Partner) (*limit.Pass, *problem) {
	pass, exceeded := f.opts.Limiter.Enter(ctx, partner, 0)
	if exceeded != nil {
		return nil, limitProblem(exceeded)
	}
	return pass, nil
}

// enterLine adds a line's bytes to those of its stream, which must be taken back. It
// returns the partner whose line it is, as it is known by then.
func (f *Front) enterLine(ctx context.Context, token *pass, stream *limit.Pass, bytes int64) (partner intake.Partner, refusal *problem) {
	const again = 20 * time.Millisecond // what is in flight may be done at any moment
	exceeded := f.patiently(ctx, linePatience, func() (exceeded *limit.Exceeded) {
		if partner, refusal = f.holderOf(token); refusal != nil {
			return nil
		}
		if exceeded = stream.Add(ctx, partner.Limits, bytes); exceeded != nil {
			exceeded.After = again
		}
		return exceeded
	})
	if exceeded != nil {
		exceeded.After = time.Second
		refusal = limitProblem(exceeded)
	}
	return partner, refusal
}

// takeItems takes items from a partner's rate. A line of a stream waits for it.
func (f *Front) takeItems(ctx context.Context, partner *intake.Partner, items int, line bool) (*usage, *problem) {
	if partner.Limits.ItemsPerSecond == 0 {
		return nil, nil
	}
	patience := time.Duration(0)
	if line {
		patience = linePatience
	}
	used := &usage{burst: partner.Limits.Burst}
	exceeded := f.patiently(ctx, patience, func() (exceeded *limit.Exceeded) {
		used.Usage, exceeded = f.opts.Limiter.Take(ctx, partner, items)
		return exceeded
	})
	if exceeded == nil {
		return used, nil
	}
	refusal := limitProblem(exceeded)
	refusal.usage = used
	return nil, refusal
}
