package front

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/s2"
	"go.uber.org/zap"

	"intake"
	"intake/cmd/intake/internal/problem"
	"intake/internal/failpoint"
	"intake/worker/queue"
)

const maxIdempotencyKey = 255

// idempotencyKey gives the request's Idempotency-Key, "" if it has none.
func idempotencyKey(header http.Header) (string, *problem.Problem) {
	values := header.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	bad := &problem.Problem{Code: problem.BadIdempotencyKey, Detail: fmt.Sprintf("Idempotency-Key must be given once, as 1 to %d visible ASCII characters", maxIdempotencyKey)}
	key := values[0]
	if len(values) > 1 || key == "" || len(key) > maxIdempotencyKey {
		return "", bad
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return "", bad
		}
	}
	return key, nil
}

// A reservation ends after reservationLease unless it is renewed, every renewEvery.
// Then its front has died, and a repeat takes over.
const (
	reservationLease = 5 * time.Second
	renewEvery       = reservationLease / 4
)

// onceTimeout bounds each question to the ledger about a key.
const onceTimeout = 5 * time.Second

var (
	errNoLedger = &problem.Problem{Code: problem.StoreUnavailable, RetryAfter: time.Second, Detail: "the Idempotency-Key can't be looked up now; nothing of the batch was saved or queued"}
	errRunning  = &problem.Problem{Code: problem.KeyRunning, RetryAfter: time.Second, Detail: "the first request with this Idempotency-Key is still running"}
)

// createOnce takes care that a batch which is sent again with the same key gets
// the same answer.
func (f *Front) createOnce(ctx context.Context, request *request, answer *answer, key string, hash [32]byte) *problem.Problem {
	id, err := queue.NewBatch()
	if err != nil {
		return errNoLedger
	}
	partner := request.Partner.ID
	asking, cancel := context.WithTimeout(ctx, onceTimeout)
	reservation, err := f.opts.Ledger.Reserve(asking, partner, key, hash, id, reservationLease)
	cancel()
	if err != nil {
		f.opts.Logger.Warn("cannot reserve an idempotency key", zap.Error(err))
		return errNoLedger
	}
	failpoint.Hit("front/reserved")
	answer.queued = true
	request.ID = reservation.Batch
	switch reservation.State {
	case intake.ReservationOtherBody:
		return &problem.Problem{Code: problem.KeyReused, Detail: "this Idempotency-Key came with another body before"}
	case intake.ReservationRunning:
		return errRunning
	case intake.ReservationAnswered:
		return f.replay(request, answer, reservation.Answer)
	}
	request.Holder = &intake.Holder{Key: key, BodyHash: hash, Owner: id}
	defer f.keepReservation(partner, *request.Holder)()
	if reservation.State == intake.ReservationTakenOver {
		return f.goOn(ctx, request, answer)
	}
	f.judge(ctx, request.Batch, true)
	if refusal := f.save(ctx, request); refusal != nil {
		return f.giveUp(ctx, request, refusal)
	}
	return f.keepAnswer(ctx, request, answer)
}

// giveUp releases the key of a request that is refused.
func (f *Front) giveUp(ctx context.Context, request *request, refusal *problem.Problem) *problem.Problem {
	giving, cancel := context.WithTimeout(context.WithoutCancel(ctx), onceTimeout)
	defer cancel()
	switch err := f.opts.Ledger.Release(giving, request.Partner.ID, *request.Holder); {
	case errors.Is(err, intake.ErrTakenOver):
		// That nothing is queued may not be true of the repeat.
		return errRunning
	case err != nil:
		f.opts.Logger.Warn("an idempotency key stays reserved until its lease ends", zap.Error(err))
	}
	return refusal
}

// keepReservation renews a reservation until it is stopped. One that can't be renewed may be
// taken over by a repeat: then the repeat's answer counts for both.
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
			if err := f.opts.Ledger.Renew(asking, partner, holder, reservationLease); err != nil && ctx.Err() == nil {
				f.opts.Logger.Warn("cannot renew the reservation of an idempotency key", zap.Error(err))
			}
			cancel()
			timer.Reset(renewEvery)
		}
	}()
	return cancel
}

// goOn goes on with a batch that a front has left.
func (f *Front) goOn(ctx context.Context, request *request, answer *answer) *problem.Problem {
	queued, refusal := f.lookFor(ctx, request)
	if refusal != nil {
		return refusal
	}
	if !queued {
		// Nobody is asked what was seen: it may have been seen of this very batch.
		f.judge(ctx, request.Batch, false)
		refusal = f.save(ctx, request)
	}
	switch {
	case refusal != nil && refusal.Code.Status() == http.StatusServiceUnavailable:
		// The front that has left it may only have been stopped, and may queue it yet.
		return errRunning
	case refusal != nil:
		return refusal
	}
	failpoint.Hit("front/gone-on")
	return f.keepAnswer(ctx, request, answer)
}

// lookFor searches for a batch that another front may have queued, and
// waits for its end. It reports whether the batch was queued.
func (f *Front) lookFor(ctx context.Context, request *request) (queued bool, refusal *problem.Problem) {
	const every = 100 * time.Millisecond
	for {
		share := f.budget.share(request.Partner.ID)
		batch, refusal := f.recall(ctx, f.opts.Ledger, share, request.Partner, request.ID)
		share.release()
		if refusal == errNoBatch || refusal == errLost {
			return false, nil
		}
		if refusal != nil {
			return false, refusal
		}
		copy(request.Verdicts, batch.Verdicts)
		if !request.isPending() || time.Until(request.until) < every {
			return true, nil
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return true, nil
		}
	}
}

// A kept answer is what is written down of the first answer to a request with a
// key. The items are in the repeat as well.
type keptAnswer struct {
	Minimal bool   `json:"minimal,omitempty"`
	Applied string `json:"applied,omitempty"`
	// NotSaved are the verdicts other than Completed.
	NotSaved []intake.ItemVerdict `json:"not_saved,omitempty"`
}

// keepAnswer writes down the answer before it is given. If a repeat has taken over, it
// is the repeat's that is given, or none yet: what this front has found out may not be
// true, as what it was told is seen may be its own batch, saved by the repeat.
func (f *Front) keepAnswer(ctx context.Context, request *request, answer *answer) *problem.Problem {
	text, err := answer.keep(request.Verdicts)
	var first []byte
	if err == nil {
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), onceTimeout)
		defer cancel()
		first, err = f.opts.Ledger.KeepAnswer(asking, request.Partner.ID, *request.Holder, request.ID, text)
	}
	failpoint.Hit("front/kept")
	switch {
	case errors.Is(err, intake.ErrTakenOver):
		return errRunning
	case err != nil:
		// An answer that can't be given again must not be given: a repeat may get
		// another one. It is told when it comes after the lease.
		f.opts.Logger.Error("a request is broken off", zap.Stringer("batch", request.ID), zap.Error(err))
		panic(http.ErrAbortHandler)
	case !bytes.Equal(first, text):
		return f.replay(request, answer, first)
	}
	return nil
}

// keep returns what is written down of an answer with these verdicts.
func (a *answer) keep(verdicts []intake.Verdict) ([]byte, error) {
	kept := keptAnswer{Minimal: a.minimal, Applied: a.applied}
	for i, v := range verdicts {
		if v.Code != intake.CodeSaved {
			kept.NotSaved = append(kept.NotSaved, intake.ItemVerdict{Item: i, Verdict: v})
		}
	}
	text, err := json.Marshal(kept)
	return s2.Encode(nil, text), err
}

// replay gives the first answer again.
func (f *Front) replay(request *request, answer *answer, text []byte) *problem.Problem {
	var kept keptAnswer
	plain, err := s2.Decode(nil, text)
	if err == nil {
		err = json.Unmarshal(plain, &kept)
	}
	for i := range request.Verdicts {
		request.Verdicts[i] = intake.Verdict{Code: intake.CodeSaved}
	}
	for _, v := range kept.NotSaved {
		if v.Item >= len(request.Verdicts) {
			err = errors.New("it is of a larger batch")
			break
		}
		request.Verdicts[v.Item] = v.Verdict
	}
	if err != nil {
		f.opts.Logger.Error("cannot read a kept answer", zap.Stringer("batch", request.ID), zap.Error(err))
		return &problem.Problem{Code: problem.AnswerLost, Detail: "the first answer can't be read; ask for the status of batch " + request.ID.String()}
	}
	answer.replayed, answer.minimal, answer.applied = true, kept.Minimal, kept.Applied
	return nil
}

// Idempotency is the part of a Ledger that remembers keys.
type Idempotency interface {
	// Reserve reserves a key of a partner for a body with this SHA-256. The
	// reservation ends with its lease if there is no answer by then.
	Reserve(ctx context.Context, partner int32, key string, hash [32]byte, batch uuid.UUID, lease time.Duration) (intake.Reservation, error)
	// Renew lets a reservation last for lease from now on.
	Renew(ctx context.Context, partner int32, holder intake.Holder, lease time.Duration) error
	// KeepAnswer keeps the answer to a batch, and returns the first one that was
	// kept. It returns intake.ErrTakenOver if another holder has the key and no answer yet.
	KeepAnswer(ctx context.Context, partner int32, holder intake.Holder, batch uuid.UUID, answer []byte) (first []byte, err error)
	// Release deletes a reservation that has no answer.
	Release(ctx context.Context, partner int32, holder intake.Holder) error
}
