package front

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"intake"
	"intake/dedupe"
	"intake/worker"
)

// create is POST /api/v1/clients: steps 1 to 7 and 11 of the way of an item.
func (f *Front) create(w http.ResponseWriter, r *http.Request) {
	partner, ok := f.authenticate(w, r, scopeWrite)
	if !ok {
		return
	}
	share := &share{budget: f.budget}
	defer share.release()
	body, refusal := f.readBody(w, r, share)
	if refusal != nil {
		writeProblem(w, *refusal)
		return
	}
	defer putBody(body)
	received := time.Now()
	items, err := f.decode(*body, &partner, received)
	if err != nil {
		writeProblem(w, decodeProblem(err))
		return
	}
	if !share.addItems(items) {
		writeProblem(w, errFull)
		return
	}
	batch := &intake.Batch{Partner: partner, Items: items, Verdicts: make([]intake.Verdict, len(items))}
	prefer := readPreferences(r.Header)
	f.judge(r.Context(), batch)
	queued := false
	for i := range batch.Verdicts {
		queued = queued || batch.Verdicts[i].Code == intake.CodePending
	}
	if queued {
		if refusal := f.save(r.Context(), share, batch, received.Add(prefer.wait)); refusal != nil {
			writeProblem(w, *refusal)
			return
		}
	}
	f.count(batch)
	if len(prefer.applied) > 0 {
		w.Header().Set("Preference-Applied", strings.Join(prefer.applied, ", "))
	}
	if err := writeAnswer(w, batch, queued, prefer.minimal); err != nil {
		f.opts.Logger.Debug("cannot write an answer", zap.String("partner", partner.Name), zap.Error(err))
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
}

// smallBody is a body that is decoded in no time, in bytes.
const smallBody = 64 << 10

// decode decodes a body; large ones in turn. When more of them are decoded at
// once than there are processors, all that is quick waits behind them, and by
// then Redis seems to be slow.
func (f *Front) decode(body []byte, partner *intake.Partner, received time.Time) ([]intake.Item, error) {
	if len(body) > smallBody {
		f.decoding <- struct{}{}
		defer func() { <-f.decoding }()
	}
	return intake.DecodeBatch(body, partner, received)
}

// judge gives their verdicts to the items that need not be saved.
func (f *Front) judge(ctx context.Context, batch *intake.Batch) {
	dedupe.InBatch(batch.Items, batch.Verdicts)
	clients := make([]*intake.PartnerClient, 0, len(batch.Items))
	for i := range batch.Items {
		if batch.Verdicts[i].Code == intake.CodePending {
			clients = append(clients, &batch.Items[i].Client)
		}
	}
	if len(clients) == 0 {
		return
	}
	seen := make([]dedupe.Seen, len(clients))
	f.opts.SeenSet.Ask(ctx, batch.Partner.ID, clients, seen)
	for i, client := range clients {
		if seen[i] != dedupe.NotSeen {
			batch.Verdicts[client.Item] = intake.DuplicateOfSaved(seen[i] == dedupe.SeenSame)
		}
	}
}

// save queues what is left of a batch and waits until it is saved, or until a
// moment, or until the client is gone.
func (f *Front) save(ctx context.Context, share *share, batch *intake.Batch, until time.Time) *problem {
	ticket, err := f.opts.Queue.Submit(ctx, batch)
	if err != nil {
		return f.queueProblem(batch, err)
	}
	defer ticket.Release()
	// From here on only the text is needed, for the answer.
	for i := range batch.Items {
		batch.Items[i].Client = intake.PartnerClient{}
	}
	share.keepBody()
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	final := ticket.Wait(ctx)
	f.opts.Logger.Debug("batch", zap.Stringer("batch", batch.ID), zap.String("partner", batch.Partner.Name),
		zap.Int("items", len(batch.Items)), zap.Bool("final", final))
	return nil
}

func (f *Front) queueProblem(batch *intake.Batch, err error) *problem {
	switch {
	case errors.Is(err, worker.ErrTooLarge):
		return &problem{status: http.StatusRequestEntityTooLarge, detail: err.Error()}
	case errors.Is(err, worker.ErrUncertain):
		// No answer is true here. The client finds its connection broken, and by
		// sending the batch again it learns what became of it.
		f.opts.Logger.Error("a request is broken off", zap.Stringer("batch", batch.ID), zap.String("partner", batch.Partner.Name), zap.Error(err))
		panic(http.ErrAbortHandler)
	}
	if !errors.Is(err, worker.ErrUnavailable) {
		f.opts.Logger.Error("cannot queue a batch", zap.Stringer("batch", batch.ID), zap.String("partner", batch.Partner.Name), zap.Error(err))
	}
	f.opts.Logger.Debug("a batch is refused", zap.String("partner", batch.Partner.Name), zap.Error(err))
	return &problem{status: http.StatusServiceUnavailable, retryAfter: time.Second, detail: "the batch can't be queued safely now; nothing of it was saved or queued"}
}

func decodeProblem(err error) problem {
	if errors.Is(err, intake.ErrTooManyItems) {
		return problem{status: http.StatusRequestEntityTooLarge, detail: fmt.Sprintf("the batch has more than %d items", intake.MaxBatchItems)}
	}
	return problem{status: http.StatusBadRequest, detail: err.Error()}
}

func (f *Front) count(batch *intake.Batch) {
	var counts [8]int
	for i := range batch.Verdicts {
		counts[batch.Verdicts[i].Code&7]++
	}
	for code, n := range counts {
		if n > 0 {
			f.metrics.items.WithLabelValues(intake.Code(code).String()).Add(float64(n))
		}
	}
}
