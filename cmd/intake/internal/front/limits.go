package front

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"intake"
	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/limit"
	"intake/cmd/intake/internal/problem"
)

// A usage is what a partner has used of its rate.
type usage struct {
	limit.Usage
	burst int
}

// set adds it to an answer's header. It is nil for a partner without a limit.
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

// on returns a refusal that has it in the header too.
func (u *usage) on(refusal error) error {
	p, ok := errors.AsType[*problem.Problem](refusal)
	if u == nil || !ok {
		return refusal
	}
	for name, value := range u.headers() {
		p = p.With(name, value)
	}
	return p
}

func limitProblem(exceeded *limit.Exceeded) *problem.Problem {
	return problem.New(problem.Code(exceeded.Limit), "%s", exceeded.Detail).After(exceeded.After)
}

// readLimited reads a request's body, if the partner may have one more request in flight.
// The slot must be given back.
func (f *Front) readLimited(
	w http.ResponseWriter, r *http.Request, partner *intake.Partner, memory *memory,
) ([]byte, *limit.Slot, error) {
	if exceeded := f.opts.Limiter.Blocked(partner); exceeded != nil {
		return nil, nil, limitProblem(exceeded)
	}
	slot, exceeded := f.opts.Limiter.Enter(r.Context(), partner, max(r.ContentLength, minBodyBuffer))
	if exceeded != nil {
		return nil, nil, limitProblem(exceeded)
	}
	body, err := f.readBody(w, r, memory, slot)
	if err == nil {
		if exceeded = slot.Settle(r.Context()); exceeded == nil {
			return body, slot, nil
		}
		putBody(body)
		err = limitProblem(exceeded)
	}
	slot.Leave()
	return nil, nil, err
}

// linePatience is how long a line of a stream waits for its partner's limits: the stream is
// slowed down first, and the line is refused only then.
const linePatience = 10 * time.Second

// patiently tries until no limit is exceeded, patience is over, ctx ends or the front stops.
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

// enter takes a slot for a request without a body. It must be given back.
func (f *Front) enter(ctx context.Context, partner *intake.Partner) (*limit.Slot, error) {
	slot, exceeded := f.opts.Limiter.Enter(ctx, partner, 0)
	if exceeded != nil {
		return nil, limitProblem(exceeded)
	}
	return slot, nil
}

// enterLine adds a line's bytes to the slot of its stream, which must be taken back. It
// returns the partner whose line it is, as known by then.
func (f *Front) enterLine(
	ctx context.Context, who auth.Identity, slot *limit.Slot, bytes int64,
) (intake.Partner, error) {
	const again = 20 * time.Millisecond // what is in flight may be done at any moment
	var refusal error
	exceeded := f.patiently(ctx, linePatience, func() (exceeded *limit.Exceeded) {
		if who, refusal = f.recheck(who); refusal != nil {
			return nil
		}
		if exceeded = slot.Add(ctx, who.Partner.Limits, bytes); exceeded != nil {
			exceeded.After = again
		}
		return exceeded
	})
	if exceeded != nil {
		exceeded.After = time.Second
		refusal = limitProblem(exceeded)
	}
	return who.Partner, refusal
}

// spendRate takes items from a partner's rate. A line of a stream waits for it.
func (f *Front) spendRate(ctx context.Context, partner *intake.Partner, items int, isLine bool) (*usage, error) {
	if partner.Limits.ItemsPerSecond == 0 {
		return nil, nil
	}
	patience := time.Duration(0)
	if isLine {
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
	return nil, used.on(limitProblem(exceeded))
}

// recheck returns who sends a stream as known now, or why the stream must end.
func (f *Front) recheck(who auth.Identity) (auth.Identity, error) {
	now, err := f.opts.Auth.Recheck(who)
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return who, problem.New(p.Code, "%s; nothing from this line on was saved or queued", p.Detail)
	}
	return now, err
}
