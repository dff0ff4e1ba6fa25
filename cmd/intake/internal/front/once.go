package front

import (
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
	"intake/internal/failpoint"
	"intake/worker"
)

const maxIdempotencyKey = 255

// idempotencyKey gives the request's Idempotency-Key, "" if it has none.
func idempotencyKey(header http.Header) (string, *problem) {
	values := header.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	bad := &problem{code: codeBadIdempotencyKey, detail: fmt.Sprintf("Idempotency-Key must be given once, as 1 to %d visible ASCII characters", maxIdempotencyKey)}
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

// The claim of a key ends with claimLease unless it is renewed, every renewEvery:
// then its front has died, and a repeat takes over.
const (
	claimLease = 5 * time.Second
	renewEvery = claimLease / 4
)

// onceTimeout bounds each question to the ledger about a key.
const onceTimeout = 5 * time.Second

var errNoLedger = &problem{code: codeStoreUnavailable, retryAfter: time.Second, detail: "the Idempotency-Key can't be looked up now; nothing of the batch was saved or queued"}

// createOnce takes care that a batch which is sent again with the same key gets
// the same answer.
func (f *Front) createOnce(ctx context.Context, request *request, answer *answer, key string, hash [32]byte) *problem {
	id, err := worker.NewBatch()
	if err != nil {
		return errNoLedger
	}
	partner := request.Partner.ID
	asking, cancel := context.WithTimeout(ctx, onceTimeout)
	claim, err := f.opts.Ledger.Claim(asking, partner, key, hash, id, claimLease)
	cancel()
	if err != nil {
		f.opts.Logger.Warn("cannot claim an idempotency key", zap.Error(err))
		return errNoLedger
	}
	failpoint.Hit("front/claimed")
	answer.queued = true
	request.ID = claim.Batch
	switch claim.State {
	case intake.ClaimOtherBody:
		return &problem{code: codeKeyReused, detail: "this Idempotency-Key came with another body before"}
	case intake.ClaimRunning:
		return &problem{code: codeKeyRunning, retryAfter: time.Second, detail: "the first request with this Idempotency-Key is still running"}
	case intake.ClaimAnswered:
		return f.replay(request, answer, claim.Answer)
	}
	request.Claimant = &intake.Claimant{Key: key, BodyHash: hash, Owner: id}
	defer f.keepClaim(partner, *request.Claimant)()
	if claim.State == intake.ClaimTakenOver {
		known, refusal := f.goOn(ctx, request)
		if refusal != nil {
			return refusal
		}
		if known {
			return f.keepAnswer(ctx, request, answer, key)
		}
	}
	// One that is taken over asks nobody what was seen: it may have been seen of
	// this very batch.
	f.judge(ctx, request.Batch, claim.State == intake.ClaimFresh)
	if refusal := f.save(ctx, request); refusal != nil {
		giving, cancel := context.WithTimeout(context.WithoutCancel(ctx), onceTimeout)
		defer cancel()
		switch err := f.opts.Ledger.Unclaim(giving, partner, *request.Claimant); {
		case errors.Is(err, intake.ErrTakenOver):
			// That nothing is queued may not be true of the repeat.
			panic(http.ErrAbortHandler)
		case err != nil:
			f.opts.Logger.Warn("an idempotency key stays claimed until its lease ends", zap.Error(err))
		}
		return refusal
	}
	return f.keepAnswer(ctx, request, answer, key)
}

// keepClaim renews a claim until it is stopped. One that can't be renewed may be
// taken over by a repeat: then the first of their answers counts for both.
func (f *Front) keepClaim(partner int32, claimant intake.Claimant) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	timer := time.NewTimer(renewEvery)
	go func() {
		for {
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
			asking, cancel := context.WithTimeout(ctx, claimLease)
			if err := f.opts.Ledger.Renew(asking, partner, claimant, claimLease); err != nil && ctx.Err() == nil {
				f.opts.Logger.Warn("cannot renew the claim of an idempotency key", zap.Error(err))
			}
			cancel()
			timer.Reset(renewEvery)
		}
	}()
	return cancel
}

// goOn goes on with a batch that a front has left. It tells whether the batch was
// queued.
func (f *Front) goOn(ctx context.Context, request *request) (queued bool, refusal *problem) {
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

// keepAnswer writes down the answer before it is given.
func (f *Front) keepAnswer(ctx context.Context, request *request, answer *answer, key string) *problem {
	kept := keptAnswer{Minimal: answer.minimal, Applied: answer.applied}
	for i, v := range request.Verdicts {
		if v.Code != intake.CodeSaved {
			kept.NotSaved = append(kept.NotSaved, intake.ItemVerdict{Item: i, Verdict: v})
		}
	}
	text, err := json.Marshal(kept)
	if err == nil {
		text = s2.Encode(nil, text)
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), onceTimeout)
		defer cancel()
		var first []byte
		if first, err = f.opts.Ledger.KeepAnswer(asking, request.Partner.ID, key, text); err == nil && string(first) != string(text) {
			return f.replay(request, answer, first)
		}
	}
	failpoint.Hit("front/kept")
	if err != nil {
		// An answer that can't be given again must not be given: a repeat may get
		// another one. It is told when it comes after the lease.
		f.opts.Logger.Error("a request is broken off", zap.Stringer("batch", request.ID), zap.Error(err))
		panic(http.ErrAbortHandler)
	}
	return nil
}

// replay gives the first answer again.
func (f *Front) replay(request *request, answer *answer, text []byte) *problem {
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
		return &problem{code: codeAnswerLost, detail: "the first answer can't be read; ask for the status of batch " + request.ID.String()}
	}
	answer.replayed, answer.minimal, answer.applied = true, kept.Minimal, kept.Applied
	return nil
}

// Idempotency is the part of a Ledger that remembers keys.
type Idempotency interface {
	// Claim claims a key of a partner for a body with this SHA-256. The claim
	// ends with its lease if there is no answer by then.
	Claim(ctx context.Context, partner int32, key string, hash [32]byte, batch uuid.UUID, lease time.Duration) (intake.Claim, error)
	// Renew lets a claim last for lease from now on.
	Renew(ctx context.Context, partner int32, claimant intake.Claimant, lease time.Duration) error
	// KeepAnswer keeps the answer, and gives the first one that was kept.
	KeepAnswer(ctx context.Context, partner int32, key string, answer []byte) (first []byte, err error)
	// Unclaim gives up a claim that has no answer.
	Unclaim(ctx context.Context, partner int32, claimant intake.Claimant) error
}
