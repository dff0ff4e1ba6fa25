package front

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/klauspost/compress/s2"
	"go.uber.org/zap"

	"intake"
	"intake/cmd/intake/internal/problem"
	"intake/internal/failpoint"
	"intake/worker/queue"
)

const maxIdempotencyKey = 255

// idempotencyKey returns a request's Idempotency-Key, "" if it has none.
func idempotencyKey(header http.Header) (string, error) {
	values := header.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	isVisible := strings.IndexFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
	if len(values) > 1 || key == "" || len(key) > maxIdempotencyKey || !isVisible {
		return "", problem.New(problem.BadIdempotencyKey,
			"Idempotency-Key must be given once, as 1 to %d visible ASCII characters", maxIdempotencyKey)
	}
	return key, nil
}

// A reservation ends with its lease unless it is renewed: then its front has died, and a
// repeat takes over.
const (
	reservationLease = 5 * time.Second
	renewEvery       = reservationLease / 4
)

// onceTimeout bounds each call of the data store about a key.
const onceTimeout = 5 * time.Second

var (
	errNoKeys = problem.New(problem.StoreUnavailable,
		"the Idempotency-Key can't be looked up now; nothing of the batch was saved or queued").After(time.Second)
	errRunning = problem.New(problem.KeyRunning,
		"the first request with this Idempotency-Key is still running").After(time.Second)
)

// createOnce makes a batch that is sent again with the same key get the same answer. hash
// is the SHA-256 of its body.
func (q *request) createOnce(ctx context.Context, hash [32]byte) error {
	id, err := queue.NewBatch()
	if err != nil {
		return errNoKeys
	}
	asking, cancel := context.WithTimeout(ctx, onceTimeout)
	reservation, err := q.front.opts.Store.Reserve(asking, q.Partner.ID, q.key, hash, id, reservationLease)
	cancel()
	if err != nil {
		q.front.opts.Logger.Warn("cannot reserve an idempotency key", zap.Error(err))
		return errNoKeys
	}
	failpoint.Hit("front/reserved")
	q.queued = true
	q.ID = reservation.Batch
	switch reservation.State {
	case intake.ReservationOtherBody:
		return problem.New(problem.KeyReused, "this Idempotency-Key came with another body before")
	case intake.ReservationRunning:
		return errRunning
	case intake.ReservationAnswered:
		return q.replay(reservation.Answer)
	}
	q.Holder = &intake.Holder{Key: q.key, BodyHash: hash, Owner: id}
	defer q.front.keepReservation(q.Partner.ID, *q.Holder)()
	if reservation.State == intake.ReservationTakenOver {
		return q.goOn(ctx)
	}
	q.judge(ctx, true)
	if err := q.save(ctx); err != nil {
		return q.giveUp(ctx, err)
	}
	return q.keepAnswer(ctx)
}

// giveUp releases the key of a request that is refused, and returns the refusal. Where the
// batch may have been queued, the key stays reserved until its lease ends.
func (q *request) giveUp(ctx context.Context, refusal error) error {
	if errors.Is(refusal, errBroken) {
		return refusal
	}
	giving, cancel := context.WithTimeout(context.WithoutCancel(ctx), onceTimeout)
	defer cancel()
	switch err := q.front.opts.Store.Release(giving, q.Partner.ID, *q.Holder); {
	case errors.Is(err, intake.ErrTakenOver):
		// The repeat may have queued what this request has not.
		return errRunning
	case err != nil:
		q.front.opts.Logger.Warn("an idempotency key stays reserved until its lease ends", zap.Error(err))
	}
	return refusal
}

// keepReservation renews a reservation until stop is called. If it can't be renewed, a
// repeat may take it over: then the repeat's answer counts for both.
func (f *Front) keepReservation(partner int32, holder intake.Holder) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	timer := time.NewTimer(renewEvery)
	go func() {
		for {
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
			asking, cancel := context.WithTimeout(ctx, reservationLease)
			if err := f.opts.Store.Renew(asking, partner, holder, reservationLease); err != nil && ctx.Err() == nil {
				f.opts.Logger.Warn("cannot renew the reservation of an idempotency key", zap.Error(err))
			}
			cancel()
			timer.Reset(renewEvery)
		}
	}()
	return cancel
}

// goOn goes on with a batch whose front died or was stopped.
func (q *request) goOn(ctx context.Context) error {
	queued, err := q.lookFor(ctx)
	if err == nil && !queued {
		// The seen set is not asked: it may have seen this very batch.
		q.judge(ctx, false)
		err = q.save(ctx)
	}
	switch {
	case problem.CodeOf(err).Status() == http.StatusServiceUnavailable:
		// The other front may only have been stopped, and may queue it yet.
		return errRunning
	case err != nil:
		return err
	}
	failpoint.Hit("front/gone-on")
	return q.keepAnswer(ctx)
}

// lookFor looks for the batch, which another front may have queued, and waits for its end.
// It reports whether the batch was queued.
func (q *request) lookFor(ctx context.Context) (queued bool, err error) {
	const every = 100 * time.Millisecond
	for {
		memory := q.front.budget.memoryOf(q.Partner.ID)
		batch, err := q.front.recall(ctx, q.front.opts.Store, memory, q.Partner, q.ID)
		memory.release()
		if errors.Is(err, errNoBatch) || errors.Is(err, errLost) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		copy(q.Verdicts, batch.Verdicts)
		if !q.isPending() || time.Until(q.until()) < every {
			return true, nil
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return true, nil
		}
	}
}

// A keptAnswer is what is written down of the first answer to a request with a key. The
// items are in the repeat as well.
type keptAnswer struct {
	Minimal bool   `json:"minimal,omitempty"`
	Applied string `json:"applied,omitempty"`
	// NotSaved are the verdicts other than Completed.
	NotSaved []intake.ItemVerdict `json:"not_saved,omitempty"`
}

// keepAnswer writes the answer down before it is sent. If a repeat has taken over, the
// repeat's answer is sent, or none yet: this front's verdicts may be wrong, because an item
// that it was told is a duplicate may be its own, saved by the repeat.
func (q *request) keepAnswer(ctx context.Context) error {
	text, err := q.keptAnswer()
	var first []byte
	if err == nil {
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), onceTimeout)
		defer cancel()
		first, err = q.front.opts.Store.KeepAnswer(asking, q.Partner.ID, *q.Holder, q.ID, text)
	}
	failpoint.Hit("front/kept")
	switch {
	case errors.Is(err, intake.ErrTakenOver):
		return errRunning
	case err != nil:
		// An answer that can't be repeated must not be sent: a repeat might get another one.
		// It gets one after the lease.
		q.front.opts.Logger.Error("a request is broken off, as its answer can't be kept for its idempotency key",
			zap.Stringer("batch", q.ID), zap.Error(err))
		return errBroken
	case !bytes.Equal(first, text):
		return q.replay(first)
	}
	return nil
}

// keptAnswer returns what is written down of the answer.
func (q *request) keptAnswer() ([]byte, error) {
	kept := keptAnswer{Minimal: q.prefer.minimal, Applied: q.prefer.appliedHeader()}
	for i, v := range q.Verdicts {
		if v.Code != intake.CodeSaved {
			kept.NotSaved = append(kept.NotSaved, intake.ItemVerdict{Item: i, Verdict: v})
		}
	}
	text, err := json.Marshal(kept)
	return s2.Encode(nil, text), err
}

// replay makes the first answer, as it was written down, the answer of this request.
func (q *request) replay(text []byte) error {
	var kept keptAnswer
	plain, err := s2.Decode(nil, text)
	if err == nil {
		err = json.Unmarshal(plain, &kept)
	}
	for i := range q.Verdicts {
		q.Verdicts[i] = intake.Verdict{Code: intake.CodeSaved}
	}
	for _, v := range kept.NotSaved {
		if v.Item >= len(q.Verdicts) {
			err = errors.New("it is of a larger batch")
			break
		}
		q.Verdicts[v.Item] = v.Verdict
	}
	if err != nil {
		q.front.opts.Logger.Error("cannot read a kept answer", zap.Stringer("batch", q.ID), zap.Error(err))
		return problem.New(problem.AnswerLost, "the first answer can't be read; ask for the status of batch %s", q.ID)
	}
	q.replayed = true
	q.prefer.minimal, q.prefer.applied = kept.Minimal, nil
	if kept.Applied != "" {
		q.prefer.applied = []string{kept.Applied}
	}
	return nil
}
