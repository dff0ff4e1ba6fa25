package front

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"intake"
	"intake/cmd/intake/internal/problem"
	"intake/dedupe"
	"intake/internal/decode"
	"intake/internal/failpoint"
	"intake/worker/queue"
)

// A request is a batch on its way through the front, which came as a request of its own
// or as a line of a stream. Its methods are the steps of the way, see the package comment.
type request struct {
	*intake.Batch
	front    *Front
	body     []byte
	memory   *memory
	prefer   preferences
	key      string // the Idempotency-Key, "" if there is none
	isLine   bool   // of a stream
	received time.Time

	// What the answer says beside the verdicts.
	queued   bool // there is a status to check
	replayed bool // the answer is a repeat of an earlier one
	usage    *usage
}

func (f *Front) newRequest(partner intake.Partner, prefer preferences) *request {
	return &request{
		Batch: &intake.Batch{Partner: partner}, front: f, memory: f.budget.memoryOf(partner.ID), prefer: prefer,
	}
}

// lane is where the batch is queued: batches that a client waits for go first.
func (q *request) lane() queue.Lane { return q.prefer.lane() }

// until is when the wait for the commit is over.
func (q *request) until() time.Time { return q.received.Add(q.prefer.wait) }

// isPending reports whether some item isn't decided yet.
func (q *request) isPending() bool {
	return slices.ContainsFunc(q.Verdicts, func(v intake.Verdict) bool { return v.Code == intake.CodePending })
}

// process decodes, judges and saves the batch. Each item that was read is counted once, by
// its code, or by why it has none.
func (q *request) process(ctx context.Context) error {
	f := q.front
	q.received = time.Now()
	items, err := f.decode(q.body, &q.Partner, q.received)
	if err != nil {
		return decodeProblem(err)
	}
	f.metrics.received.Add(float64(len(items)))
	stateless := "broken_off" // also after a panic
	defer func() {
		if stateless != "" {
			f.metrics.stateless.WithLabelValues(stateless).Add(float64(len(items)))
		}
	}()
	err = q.decide(ctx, items)
	switch {
	case errors.Is(err, errBroken):
	case err != nil:
		stateless = "refused"
	case q.replayed:
		stateless = "repeated"
	case q.prefer.validate:
		stateless = "dry_run"
	default:
		stateless = ""
		f.count(q.Batch)
	}
	return err
}

// smallBody is a body that takes no time to decode, in bytes.
const smallBody = 64 << 10

// decode decodes a body. Large ones take turns: if more of them were decoded concurrently
// than there are processors, all quick work would wait behind them, and the calls to Redis
// would time out.
func (f *Front) decode(body []byte, partner *intake.Partner, received time.Time) ([]intake.Item, error) {
	if len(body) > smallBody {
		f.decoding <- struct{}{}
		defer func() { <-f.decoding }()
	}
	return decode.Batch(body, partner, received)
}

func decodeProblem(err error) error {
	if errors.Is(err, decode.ErrTooManyItems) {
		return problem.New(problem.TooManyItems, "the batch has more than %d items", intake.MaxBatchItems)
	}
	code := problem.NotJSON
	if syntax, ok := errors.AsType[*decode.SyntaxError](err); ok {
		code = problem.Code(syntax.Code)
	}
	return problem.New(code, "%s", err)
}

// decide judges and saves the items of the batch.
func (q *request) decide(ctx context.Context, items []intake.Item) (err error) {
	if !q.memory.addItems(items) {
		return q.front.full()
	}
	if q.usage, err = q.front.spendRate(ctx, &q.Partner, len(items), q.isLine); err != nil {
		return err
	}
	q.Items, q.Verdicts = items, make([]intake.Verdict, len(items))
	switch {
	case q.prefer.validate:
		return q.validate(ctx)
	case q.key != "":
		return q.createOnce(ctx, sha256.Sum256(q.body))
	}
	if q.judge(ctx, true); !q.isPending() {
		return nil
	}
	q.queued = true
	return q.save(ctx)
}

// judge decides the items that need not be saved: those that the batch alone decides, and
// those that were saved before, as far as the seen set knows, if it is to be asked.
func (q *request) judge(ctx context.Context, askSeen bool) {
	dedupe.InBatch(q.Items, q.Verdicts)
	if !askSeen {
		return
	}
	clients := make([]*intake.PartnerClient, 0, len(q.Items))
	for i := range q.Items {
		if q.Verdicts[i].Code == intake.CodePending {
			clients = append(clients, &q.Items[i].Client)
		}
	}
	if len(clients) == 0 {
		return
	}
	seen := make([]dedupe.Seen, len(clients))
	q.front.opts.SeenSet.Ask(ctx, q.Partner.ID, clients, seen)
	for i, client := range clients {
		if seen[i] != dedupe.NotSeen {
			q.Verdicts[client.Item] = intake.DuplicateOfSaved(seen[i] == dedupe.SeenSame)
		}
	}
}

// save queues what is left of the batch, and waits for its verdicts until its wait is over
// or ctx ends.
func (q *request) save(ctx context.Context) error {
	ticket, err := q.front.opts.Queue.Submit(ctx, q.Batch, q.lane())
	if err != nil {
		return q.queueProblem(err)
	}
	defer ticket.Release()
	q.ID = ticket.ID()
	q.forgetClients()
	q.memory.keepBody()
	ctx, cancel := context.WithDeadline(ctx, q.until())
	defer cancel()
	failpoint.Hit("front/queued")
	final := !q.isPending() || ticket.Wait(ctx)
	failpoint.Hit("front/decided")
	q.front.opts.Logger.Debug("batch", zap.Stringer("batch", q.ID), zap.String("partner", q.Partner.Name),
		zap.Int("items", len(q.Items)), zap.Bool("final", final))
	return nil
}

// forgetClients lets go of what was decoded of the items: the answer needs their text only.
func (q *request) forgetClients() {
	for i := range q.Items {
		q.Items[i].Client = intake.PartnerClient{}
	}
}

func (q *request) queueProblem(err error) error {
	log := q.front.opts.Logger.With(zap.Stringer("batch", q.ID), zap.String("partner", q.Partner.Name), zap.Error(err))
	switch {
	case errors.Is(err, queue.ErrTooLarge):
		return problem.New(problem.ItemTooLarge, "%s", err)
	case errors.Is(err, queue.ErrUncertain):
		// No answer would be true. The client finds its connection broken off, and learns
		// the states of the batch by sending it again.
		log.Error("a request is broken off, as it is not known whether its batch was queued")
		return errBroken
	case errors.Is(err, queue.ErrUnavailable):
		log.Debug("a batch is refused")
	default:
		log.Error("cannot queue a batch")
	}
	code := problem.QueueUnavailable
	if errors.Is(err, queue.ErrFull) {
		code = problem.QueueFull
	}
	return problem.New(code, "the batch can't be queued safely now; nothing of it was saved or queued").
		After(comeBack(q.front.opts.Queue.Backlog()))
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
