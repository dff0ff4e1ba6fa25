package front

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"intake"
	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/problem"
	"intake/dedupe"
	"intake/internal/decode"
	"intake/internal/failpoint"
	"intake/worker/queue"
)

// create is POST /api/v1/clients: steps 1 to 7 and 11 of the way of an item.
func (f *Front) create(w http.ResponseWriter, r *http.Request) {
	streams := isStream(r)
	if streams {
		f.answerEarly(w)
	}
	who, ok := f.authenticate(w, r, auth.ScopeWrite)
	if !ok {
		return
	}
	partner := who.Partner
	key, refusal := idempotencyKey(r.Header)
	if refusal == nil && streams {
		f.stream(w, r, who, key)
		return
	}
	if refusal != nil {
		refusal.Write(w)
		return
	}
	prefer := readPreferences(r.Header)
	if refusal := f.admit(&prefer); refusal != nil {
		f.refuseUnread(w, r, refusal)
		return
	}
	share := f.budget.share(partner.ID)
	defer share.release()
	body, slot, refusal := f.readLimited(w, r, &partner, share)
	if refusal != nil {
		share.release()
		f.refuseUnread(w, r, refusal)
		return
	}
	defer slot.Leave()
	request, answer, refusal := f.take(r.Context(), &incoming{
		partner: partner, body: *body, share: share, prefer: prefer, key: key,
	})
	if refusal != nil {
		putBody(body)
		refusal.Write(w)
		return
	}
	object := newObject(share, request.Batch, answer.queued, answer.minimal)
	if object.isMade() {
		putBody(body)
	}
	if err := writeAnswer(w, object, answer); err != nil {
		f.opts.Logger.Debug("cannot write an answer", zap.String("partner", partner.Name), zap.Error(err))
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
}

// An incoming is a batch that was read.
type incoming struct {
	partner intake.Partner
	body    []byte
	share   *share
	prefer  preferences
	key     string // its Idempotency-Key
	line    bool   // it is one of a stream
}

// take takes a batch in: it decodes, judges and saves it.
func (f *Front) take(ctx context.Context, in *incoming) (*request, *answer, *problem.Problem) {
	received := time.Now()
	items, err := f.decode(in.body, &in.partner, received)
	if err != nil {
		return nil, nil, decodeProblem(err)
	}
	f.metrics.received.Add(float64(len(items)))
	stateless := "broken_off" // until it is known to be otherwise
	defer func() {
		if stateless != "" {
			f.metrics.stateless.WithLabelValues(stateless).Add(float64(len(items)))
		}
	}()
	request, answer, refusal := f.decide(ctx, in, items, received)
	switch {
	case refusal != nil:
		stateless = "refused"
	case answer.replayed:
		stateless = "repeated"
	case in.prefer.validate:
		stateless = "dry_run"
	default:
		stateless = ""
		f.count(request.Batch)
	}
	return request, answer, refusal
}

// decide judges and saves the items of a batch.
func (f *Front) decide(ctx context.Context, in *incoming, items []intake.Item, received time.Time) (*request, *answer, *problem.Problem) {
	if !in.share.addItems(items) {
		return nil, nil, f.full()
	}
	usage, refusal := f.takeItems(ctx, &in.partner, len(items), in.line)
	if refusal != nil {
		return nil, nil, refusal
	}
	prefer := in.prefer
	request := &request{
		Batch: &intake.Batch{Partner: in.partner, Items: items, Verdicts: make([]intake.Verdict, len(items))},
		share: in.share, until: received.Add(prefer.wait), lane: prefer.lane(),
	}
	answer := &answer{minimal: prefer.minimal, applied: strings.Join(prefer.applied, ", "), usage: usage}
	switch {
	case prefer.validate:
		refusal = f.validate(ctx, in.share, cap(in.body), request.Batch)
	case in.key != "":
		refusal = f.createOnce(ctx, request, answer, in.key, sha256.Sum256(in.body))
	default:
		if f.judge(ctx, request.Batch, true); request.isPending() {
			answer.queued = true
			refusal = f.save(ctx, request)
		}
	}
	return request, answer, refusal
}

// A request is a batch on its way.
type request struct {
	*intake.Batch
	share *share
	until time.Time // when its wait is over
	lane  queue.Lane
}

// isPending tells whether some item isn't decided yet.
func (r *request) isPending() bool {
	return slices.ContainsFunc(r.Verdicts, func(v intake.Verdict) bool { return v.Code == intake.CodePending })
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
	return decode.Batch(body, partner, received)
}

// judge gives their verdicts to the items that need not be saved: those that the
// batch alone decides, and those that were seen before, if that is asked.
func (f *Front) judge(ctx context.Context, batch *intake.Batch, ask bool) {
	dedupe.InBatch(batch.Items, batch.Verdicts)
	if !ask {
		return
	}
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

// save queues a batch and waits until what was left of it is saved, or until its
// wait is over, or until the client is gone.
func (f *Front) save(ctx context.Context, request *request) *problem.Problem {
	batch := request.Batch
	ticket, err := f.opts.Queue.Submit(ctx, batch, request.lane)
	if err != nil {
		return f.queueProblem(batch, err)
	}
	defer ticket.Release()
	batch.ID = ticket.ID()
	// From here on only the text is needed, for the answer.
	for i := range batch.Items {
		batch.Items[i].Client = intake.PartnerClient{}
	}
	request.share.keepBody()
	ctx, cancel := context.WithDeadline(ctx, request.until)
	defer cancel()
	failpoint.Hit("front/queued")
	final := !request.isPending() || ticket.Wait(ctx)
	failpoint.Hit("front/decided")
	f.opts.Logger.Debug("batch", zap.Stringer("batch", batch.ID), zap.String("partner", batch.Partner.Name),
		zap.Int("items", len(batch.Items)), zap.Bool("final", final))
	return nil
}

func (f *Front) queueProblem(batch *intake.Batch, err error) *problem.Problem {
	switch {
	case errors.Is(err, queue.ErrTooLarge):
		return &problem.Problem{Code: problem.ItemTooLarge, Detail: err.Error()}
	case errors.Is(err, queue.ErrUncertain):
		// No answer is true here. The client finds its connection broken, and by
		// sending the batch again it learns what became of it.
		f.opts.Logger.Error("a request is broken off", zap.Stringer("batch", batch.ID), zap.String("partner", batch.Partner.Name), zap.Error(err))
		panic(http.ErrAbortHandler)
	}
	if !errors.Is(err, queue.ErrUnavailable) {
		f.opts.Logger.Error("cannot queue a batch", zap.Stringer("batch", batch.ID), zap.String("partner", batch.Partner.Name), zap.Error(err))
	}
	f.opts.Logger.Debug("a batch is refused", zap.String("partner", batch.Partner.Name), zap.Error(err))
	code := problem.QueueUnavailable
	if errors.Is(err, queue.ErrFull) {
		code = problem.QueueFull
	}
	return &problem.Problem{
		Code: code, RetryAfter: comeBack(f.opts.Queue.Backlog()),
		Detail: "the batch can't be queued safely now; nothing of it was saved or queued",
	}
}

func decodeProblem(err error) *problem.Problem {
	if errors.Is(err, decode.ErrTooManyItems) {
		return &problem.Problem{Code: problem.TooManyItems, Detail: fmt.Sprintf("the batch has more than %d items", intake.MaxBatchItems)}
	}
	code := problem.NotJSON
	if syntax, ok := errors.AsType[*decode.SyntaxError](err); ok {
		code = problem.Code(syntax.Code)
	}
	return &problem.Problem{Code: code, Detail: err.Error()}
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
