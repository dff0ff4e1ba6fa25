package front

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"intake"
	"intake/worker"
)

// A Ledger knows what became of batches: the data store.
type Ledger interface {
	// Finished gives those chunks of a partner's batch that are finished, by
	// their number.
	Finished(ctx context.Context, partner int32, batch uuid.UUID) ([]intake.Finished, error)
	Idempotency
	Records
}

// statusTimeout bounds each of the questions of a status check.
const statusTimeout = 5 * time.Second

var (
	errNoBatch = &problem{code: codeNoBatch, detail: "there is no batch with this id, or not any more"}
	errNoRoom  = &problem{code: codeNoMemory, retryAfter: time.Second, detail: "other requests take all the memory there is"}
	errUnknown = &problem{code: codeStoreUnavailable, retryAfter: time.Second, detail: "what became of the batch can't be told now"}
)

// status is GET /api/v1/clients/status/{id}.
func (f *Front) status(w http.ResponseWriter, r *http.Request) {
	partner, _, ok := f.authenticate(w, r, scopeRead)
	if !ok {
		return
	}
	id, err := uuid.Parse(strings.TrimPrefix(r.URL.Path, statusPath))
	if err != nil || statusPath+id.String() != r.URL.Path {
		writeProblem(w, *errNoBatch)
		return
	}
	pass, refusal := f.enter(r.Context(), &partner)
	if refusal != nil {
		writeProblem(w, *refusal)
		return
	}
	defer pass.Leave()
	share := f.budget.share(partner.ID)
	defer share.release()
	batch, refusal := f.recall(r.Context(), share, partner, id)
	if refusal != nil {
		writeProblem(w, *refusal)
		return
	}
	prefer := readPreferences(r.Header)
	if prefer.minimal {
		w.Header().Set("Preference-Applied", "return=minimal")
	}
	if err := newObject(share, batch, true, prefer.minimal).answer(w, http.StatusOK); err != nil {
		f.opts.Logger.Debug("cannot write an answer", zap.String("partner", partner.Name), zap.Error(err))
		panic(http.ErrAbortHandler)
	}
}

// recall puts a batch together again, from what the data store knows of its end
// and what the log has of its beginning.
func (f *Front) recall(ctx context.Context, share *share, partner intake.Partner, id uuid.UUID) (*intake.Batch, *problem) {
	asking, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	// The log goes first: a batch that is in neither when it has been looked for
	// in the data store afterwards is in none.
	logged, logErr := f.opts.Queue.Logged(asking, partner, id, func(bytes int64) bool { return waitRoom(asking, func() bool { return share.add(bytes) }) })
	if errors.Is(logErr, worker.ErrNoRoom) {
		return nil, errNoRoom
	}
	if logErr != nil {
		f.opts.Logger.Warn("cannot read a batch from the log", zap.Stringer("batch", id), zap.Error(logErr))
	}
	asking, cancel = context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	finished, err := f.opts.Ledger.Finished(asking, partner.ID, id)
	if err != nil {
		f.opts.Logger.Warn("cannot read what became of a batch", zap.Stringer("batch", id), zap.Error(err))
		return nil, errUnknown
	}
	size := 0
	for _, chunk := range logged {
		size = max(size, chunk.First+chunk.Len)
	}
	complete := len(logged) > 0 || len(finished) > 0 && len(finished) == finished[0].Chunks
	for _, chunk := range finished {
		size = max(size, chunk.First+chunk.Len)
	}
	switch {
	case !complete && logErr != nil:
		return nil, errUnknown
	case !complete:
		// Of a batch that was withdrawn in part nothing else was promised.
		return nil, errNoBatch
	}
	batch := &intake.Batch{ID: id, Partner: partner, Items: make([]intake.Item, size), Verdicts: make([]intake.Verdict, size)}
	for _, chunk := range logged {
		recallItems(batch, chunk)
	}
	for _, chunk := range finished {
		recallVerdicts(batch, chunk)
	}
	return batch, nil
}

// recallItems fills in the items as they were sent, and the verdicts that they
// had when they were queued.
func recallItems(batch *intake.Batch, chunk worker.Logged) {
	for i, raw := range chunk.Items {
		batch.Items[chunk.First+i].Raw = raw
	}
	for i := range chunk.Clients {
		batch.Items[chunk.Clients[i].Item].Key = chunk.Clients[i].ID
	}
	for i, rejected := range chunk.Rejected {
		batch.Verdicts[rejected.Item] = rejected.Verdict
		batch.Items[rejected.Item].Key = chunk.RejectedKeys[i]
	}
	for i := range chunk.Items {
		item := &batch.Items[chunk.First+i]
		if len(item.Raw) == 0 {
			item.Raw = idOnly(item.Key)
		}
	}
}

// recallVerdicts fills in the final verdicts, and what is known of the items
// when the log has them no more.
func recallVerdicts(batch *intake.Batch, chunk intake.Finished) {
	for i := range chunk.Len {
		batch.Verdicts[chunk.First+i] = intake.Verdict{Code: intake.CodeSaved}
		if item := &batch.Items[chunk.First+i]; item.Raw == nil {
			item.Raw = idOnly(chunk.Keys[i])
		}
	}
	for _, v := range chunk.NotSaved {
		batch.Verdicts[v.Item] = v.Verdict
	}
}

// idOnly is what is given of an item that isn't kept.
func idOnly(key string) []byte {
	if key == "" {
		return []byte("{}")
	}
	return append(appendString([]byte(`{"partner_client_id":`), key), '}')
}
