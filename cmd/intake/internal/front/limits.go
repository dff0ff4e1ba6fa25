package front

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"time"

	"intake"
	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/limit"
	"intake/cmd/intake/internal/problem"
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
	for name, value := range u.headers() {
		header.Set(name, value)
	}
}

func (u *usage) headers() map[string]string {
	return map[string]string{
		"RateLimit-Limit":     strconv.Itoa(u.burst),
		"RateLimit-Remaining": strconv.Itoa(u.Remaining),
		"RateLimit-Reset":     strconv.Itoa(int(math.Ceil(u.Reset.Seconds()))),
	}
}

func limitProblem(exceeded *limit.Exceeded) *problem.Problem {
	return &problem.Problem{
		Code: problem.Code(exceeded.Limit), RetryAfter: exceeded.After, Detail: exceeded.Detail,
	}
}

// readLimited reads a request's body if the partner may have one more in flight.
// The slot must be given back.
func (f *Front) readLimited(w http.ResponseWriter, r *http.Request, partner *intake.Partner, share *share) (*[]byte, *limit.Slot, *problem.Problem) {
	if exceeded := f.opts.Limiter.Blocked(partner); exceeded != nil {
		return nil, nil, limitProblem(exceeded)
	}
	slot, exceeded := f.opts.Limiter.Enter(r.Context(), partner, max(r.ContentLength, minBodyBuffer))
	if exceeded != nil {
		return nil, nil, limitProblem(exceeded)
	}
	body, refusal := f.readBody(w, r, share, slot)
	if refusal == nil {
		if exceeded = slot.Settle(r.Context()); exceeded == nil {
			return body, slot, nil
		}
		putBody(body)
		refusal = limitProblem(exceeded)
	}
	slot.Leave()
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
// more in flight. The slot must be given back.
func (f *Front) enter(ctx context.Context, partner *intake.Partner) (*limit.Slot, *problem.Problem) {
	slot, exceeded := f.opts.Limiter.Enter(ctx, partner, 0)
	if exceeded != nil {
		return nil, limitProblem(exceeded)
	}
	return slot, nil
}

// enterLine adds a line's bytes to those of its stream, which must be taken back. It
// returns the partner whose line it is, as it is known by then.
func (f *Front) enterLine(ctx context.Context, who auth.Identity, stream *limit.Slot, bytes int64) (partner intake.Partner, refusal *problem.Problem) {
	const again = 20 * time.Millisecond // what is in flight may be done at any moment
	exceeded := f.patiently(ctx, linePatience, func() (exceeded *limit.Exceeded) {
		if who, refusal = f.recheck(who); refusal != nil {
			return nil
		}
		partner = who.Partner
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
func (f *Front) takeItems(ctx context.Context, partner *intake.Partner, items int, line bool) (*usage, *problem.Problem) {
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
	for name, value := range used.headers() {
		refusal = refusal.With(name, value)
	}
	return nil, refusal
}

// recheck returns who sends a stream as known now, or why the stream must end.
func (f *Front) recheck(who auth.Identity) (auth.Identity, *problem.Problem) {
	who, err := f.opts.Auth.Recheck(who)
	if err == nil {
		return who, nil
	}
	return who, problem.New(problem.CodeOf(err), "%s; nothing from this line on was saved or queued", err.(*problem.Problem).Detail)
}
