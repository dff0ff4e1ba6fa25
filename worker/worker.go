package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"intake"
	"intake/internal/failpoint"
	"intake/internal/safety"
	"intake/internal/sleep"
	"intake/worker/queue"
)

// A Store saves chunks: the data store.
type Store interface {
	// Save saves chunks in one transaction. An error means that nothing is
	// known to be saved and that the same chunks should be given again. It wraps
	// intake.ErrUnsavable if the store isn't away, and is an
	// *intake.UnknownPartnerError if it doesn't know the partner of a chunk. Save
	// ends by itself when the store is silent for long.
	Save(ctx context.Context, chunks []*intake.Chunk) (intake.Saved, error)
	// Ping tells whether the store can be reached.
	Ping(ctx context.Context) error
}

// A Marker marks keys as seen, once they are committed: the seen set.
type Marker interface {
	Mark(ctx context.Context, timeline string, keys []intake.SavedKey) error
}

// Options of a Worker. Only Store is required.
type Options struct {
	Store  Store
	Marker Marker // none when nil
	Stream queue.StreamOptions
	// Savers is how many transactions run at once; 2 when zero.
	Savers int
	// AckWait is how long JetStream waits for a sign of life before it delivers
	// a message to another worker; 10 s when zero.
	AckWait time.Duration
	// Keep is how long the log keeps what is processed, if half of its room is
	// enough for that; 24 h when zero.
	Keep time.Duration
	// ShutdownTimeout bounds the last transactions when Run's context has
	// ended; 10 s when zero.
	ShutdownTimeout time.Duration
	// Check is made before anything is saved.
	Check      queue.Check
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// A Worker saves what is queued. Any number of them may run at once, in any
// number of processes.
type Worker struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	opts     Options
	metrics  *workerMetrics
	backlog  *backlog
	marks    chan intake.Saved
	failing  atomic.Bool // the last transaction failed
	suspects suspects
	// maxDeliveries and maxAge are when a message that fails by itself is given up.
	maxDeliveries uint64
	maxAge        time.Duration
	// patience bounds the tries to save a gathering before it is handed back, to be
	// delivered again later: after twice firstNak, and then twice as long each time.
	patience, firstNak time.Duration
	// committed, if set, is called between the commit and the acks: for tests
	// of what happens when a worker dies there.
	committed func()
}

// New makes a worker.
func New(nc *nats.Conn, opts Options) (*Worker, error) {
	if opts.Store == nil {
		return nil, errors.New("a worker needs a store")
	}
	if opts.Savers <= 0 {
		opts.Savers = 2
	}
	if opts.AckWait <= 0 {
		opts.AckWait = 10 * time.Second
	}
	if opts.Keep <= 0 {
		opts.Keep = 24 * time.Hour
	}
	if opts.ShutdownTimeout <= 0 {
		opts.ShutdownTimeout = 10 * time.Second
	}
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	opts.Stream.AllowFewer = opts.Check.AllowUnsafe
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	metrics := newWorkerMetrics(opts.Registerer)
	return &Worker{
		nc: nc, js: js, opts: opts, metrics: metrics,
		backlog:  newBacklog(metrics.held),
		marks:    make(chan intake.Saved, 16),
		patience: 30 * time.Second, firstNak: 500 * time.Millisecond, maxDeliveries: maxDeliveries, maxAge: maxAge,
	}, nil
}

// Ready tells whether the worker can reach the queue.
func (w *Worker) Ready(ctx context.Context) error {
	if err := queue.CheckConnected(w.nc); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := w.js.Consumer(ctx, queue.StreamName, queue.ConsumerName(queue.WaitingLane)); err != nil {
		return fmt.Errorf("consumer %s: %w", queue.ConsumerName(queue.WaitingLane), err)
	}
	return nil
}

// Run saves what is queued until ctx ends. Then it takes nothing more, finishes
// the transactions that are under way, and hands back what it has not begun. It
// ends with safety.Breaches if NATS may lose what it has stored.
func (w *Worker) Run(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	// The transactions under way when ctx ends go on for a while.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		w.backlog.close()
		// What is left of the time is for handing back what they held.
		time.AfterFunc(w.opts.ShutdownTimeout*8/10, cancel)
	})
	defer stop()

	var savers, takers, others sync.WaitGroup
	others.Go(func() { w.keepAlive(work) })
	others.Go(func() { w.tidy(work) })
	others.Go(func() { w.mark() })
	checked := make(chan struct{})
	others.Go(func() {
		pass := sync.OnceFunc(func() { close(checked) })
		if breach := w.opts.Check.Watch(ctx, w.nc, w.opts.Stream, w.opts.Logger, func(uint64) { pass() }); breach != nil {
			end(breach)
		}
	})
	for range w.opts.Savers {
		savers.Go(func() { w.saveGatherings(work) })
	}
	w.opts.Logger.Info("worker started", zap.Int("savers", w.opts.Savers))
	takers.Go(func() {
		select {
		case <-checked:
			if breach := w.take(ctx); breach != nil {
				end(breach)
			}
		case <-ctx.Done():
		}
	})
	<-ctx.Done()
	savers.Wait()
	w.backlog.handBack()
	takers.Wait() // they hand back what has come since
	close(w.marks)
	cancel()
	others.Wait()
	// What was acknowledged and handed back is still in the connection's buffer.
	if err := w.nc.FlushTimeout(2 * time.Second); err != nil {
		w.opts.Logger.Warn("some acknowledgements may be lost, their messages will be delivered again", zap.Error(err))
	}
	w.opts.Logger.Info("worker stopped")
	return safety.Cause(ctx)
}

// take moves messages from the stream to the backlog until ctx ends, or returns
// safety.Breaches if the stream can't be as it should.
func (w *Worker) take(ctx context.Context) error {
	said := ""
	for queue.AwaitConnection(ctx, w.nc) {
		if err := w.takeFrom(ctx); err != nil && ctx.Err() == nil {
			if breaches, _ := safety.Find(err); len(breaches) > 0 {
				return breaches
			}
			if text := err.Error(); text != said && w.nc.IsConnected() {
				said = text
				w.opts.Logger.Warn("cannot take from the queue, trying again", zap.Error(err))
			}
			sleep.For(ctx, 500*time.Millisecond)
		}
	}
	return nil
}

func (w *Worker) takeFrom(ctx context.Context) error {
	try, cancel := context.WithTimeout(ctx, 15*time.Second)
	consumers, err := queue.SetUp(try, w.js, w.opts.Stream, w.opts.AckWait)
	cancel()
	if err != nil {
		return err
	}
	pulls, ctx := errgroup.WithContext(ctx)
	for _, consumer := range consumers {
		pull := w.pullLater
		if consumer.Lane == queue.WaitingLane {
			pull = w.pullWaiting
		}
		pulls.Go(func() error { return pull(ctx, consumer) })
	}
	return pulls.Wait()
}

// saveGatherings saves one gathering after the other until the backlog is closed.
func (w *Worker) saveGatherings(ctx context.Context) {
	for {
		gathering := w.backlog.take()
		if gathering == nil {
			return
		}
		w.saveGathering(ctx, gathering)
		w.backlog.release(gathering)
	}
}

// Delays between the tries to save a gathering.
const (
	firstDelay = 50 * time.Millisecond
	maxDelay   = time.Second
)

func (w *Worker) saveGathering(ctx context.Context, gathering []*held) {
	var chunks []*intake.Chunk
	items := 0
	for _, h := range gathering {
		chunks = append(chunks, h.chunks...)
		items += h.items
	}
	w.metrics.gathering.Observe(float64(items))
	failpoint.Hit("worker/taken")
	began := time.Now()
	var err error
	for delay := firstDelay; ; delay = min(2*delay, maxDelay) {
		var saved intake.Saved
		if saved, err = w.save(ctx, chunks); err == nil {
			if w.failing.CompareAndSwap(true, false) {
				w.opts.Logger.Info("saving again")
			}
			w.suspects.noteSaved(gathering)
			w.settle(gathering, saved)
			return
		}
		w.metrics.failures.Inc()
		if stranger := (*intake.UnknownPartnerError)(nil); errors.As(err, &stranger) {
			w.saveWithout(ctx, gathering, stranger)
			return
		}
		if !w.failing.Swap(true) {
			w.opts.Logger.Warn("cannot save, trying again until it passes", zap.Int("chunks", len(chunks)), zap.Int("items", items), zap.Error(err))
		} else {
			w.opts.Logger.Debug("still cannot save", zap.Int("chunks", len(chunks)), zap.Error(err))
		}
		if w.backlog.isClosed() {
			break
		}
		// One that was handed back before has been waited for enough; it must
		// not keep the others waiting again. While the store is away none is to
		// blame, and handing back would only make suspects of all of them.
		if (gathering[0].isSuspect() || time.Since(began) > w.patience) && w.reachesStore(ctx) {
			break
		}
		if !sleep.For(ctx, delay) {
			break
		}
	}
	if suspect := gathering[0]; suspect.isSuspect() && errors.Is(err, intake.ErrUnsavable) && w.isHopeless(suspect.msg) {
		w.bury(ctx, suspect.msg, suspect.delivery, err)
		return
	}
	for _, h := range gathering {
		_ = h.msg.NakWithDelay(w.nakDelay(h.delivery))
	}
}

// saveWithout moves the messages of a partner that the store doesn't know to the dead
// letters, and saves the others of their gathering.
func (w *Worker) saveWithout(ctx context.Context, gathering []*held, stranger *intake.UnknownPartnerError) {
	isOf := func(chunk *intake.Chunk) bool {
		return chunk.Partner == stranger.ID && chunk.PartnerName == stranger.Name
	}
	var others []*held
	for _, h := range gathering {
		if slices.ContainsFunc(h.chunks, isOf) {
			w.bury(ctx, h.msg, h.delivery, stranger)
		} else {
			others = append(others, h)
		}
	}
	if len(others) > 0 {
		w.saveGathering(ctx, others)
	}
}

func (w *Worker) reachesStore(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return w.opts.Store.Ping(ctx) == nil
}

// save measures a transaction.
func (w *Worker) save(ctx context.Context, chunks []*intake.Chunk) (intake.Saved, error) {
	began := time.Now()
	saved, err := w.opts.Store.Save(ctx, chunks)
	w.metrics.save.Observe(time.Since(began).Seconds())
	if err == nil && len(saved.Outcomes) != len(chunks) {
		err = fmt.Errorf("the store gave %d outcomes for %d chunks", len(saved.Outcomes), len(chunks))
	}
	return saved, err
}

// nakDelay grows with the deliveries: a message that is handed back without a
// delay comes back at once.
func (w *Worker) nakDelay(delivery uint64) time.Duration {
	return min(w.firstNak<<min(delivery, 7), 30*time.Second)
}

// settle tells the fronts of what is committed, acknowledges it, and has it
// marked as seen. What is lost of this, redelivery or the ledger makes good.
func (w *Worker) settle(gathering []*held, saved intake.Saved) {
	if w.committed != nil {
		w.committed()
	}
	w.tell(gathering, saved.Outcomes)
	failpoint.Hit("worker/told")
	outcomes := saved.Outcomes
	for _, h := range gathering {
		if !slices.ContainsFunc(outcomes[:len(h.chunks)], func(o intake.Outcome) bool { return !o.Withdrawn }) {
			w.remove(h.msg)
		}
		if err := h.msg.Ack(); err != nil {
			w.opts.Logger.Debug("cannot acknowledge, will be delivered again", zap.Error(err))
		}
		for i, chunk := range h.chunks {
			w.count(chunk, outcomes[i])
		}
		outcomes = outcomes[len(h.chunks):]
	}
	failpoint.Hit("worker/acknowledged")
	if w.opts.Marker == nil || len(saved.Keys) == 0 {
		return
	}
	select {
	case w.marks <- saved:
	default:
		w.metrics.marks.WithLabelValues("skipped").Inc()
	}
}

// remove takes a message that was withdrawn out of the log: nothing of it may be
// saved, not even by Recover when the data store has lost that it was withdrawn.
func (w *Worker) remove(msg jetstream.Msg) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	meta, err := msg.Metadata()
	if err == nil {
		var stream jetstream.Stream
		if stream, err = w.js.Stream(ctx, queue.StreamName); err == nil {
			err = stream.DeleteMsg(ctx, meta.Sequence.Stream)
		}
	}
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		w.opts.Logger.Warn("cannot remove a message that was withdrawn", zap.String("subject", msg.Subject()), zap.Error(err))
	}
}

func (w *Worker) count(chunk *intake.Chunk, outcome intake.Outcome) {
	if outcome.Withdrawn {
		return
	}
	// The front has counted what it rejected.
	notSaved := len(outcome.NotSaved) - len(chunk.Rejected)
	w.metrics.items.WithLabelValues(intake.CodeSaved.String()).Add(float64(len(chunk.Clients) - notSaved))
	if notSaved == 0 {
		return
	}
	for _, v := range outcome.NotSaved {
		switch v.Code {
		case intake.CodeDuplicateOfSaved, intake.CodeRefused:
			w.metrics.items.WithLabelValues(v.Code.String()).Inc()
		}
	}
}

// tell sends each front its outcomes, as few messages as will do.
func (w *Worker) tell(gathering []*held, outcomes []intake.Outcome) {
	const large = 256 << 10
	news := make(map[string][]byte)
	send := func(reply string) {
		if err := w.nc.Publish(reply, news[reply]); err != nil {
			w.opts.Logger.Debug("cannot tell a front, it will read the ledger", zap.Error(err))
		}
		delete(news, reply)
	}
	for _, h := range gathering {
		own := outcomes[:len(h.chunks)]
		outcomes = outcomes[len(h.chunks):]
		if h.reply == "" {
			continue
		}
		for i, chunk := range h.chunks {
			if own[i].Withdrawn {
				continue // its front has refused it
			}
			news[h.reply] = queue.AppendOutcome(news[h.reply], own[i], chunk.Rejected)
			if len(news[h.reply]) > large {
				send(h.reply)
			}
		}
	}
	for reply := range news {
		send(reply)
	}
}

// keepAlive tells JetStream of every message held that it is being worked on.
func (w *Worker) keepAlive(ctx context.Context) {
	for sleep.For(ctx, w.opts.AckWait/3) {
		for _, msg := range w.backlog.messages() {
			_ = msg.InProgress() // if it can't be told, it is delivered again
		}
	}
}

// mark marks as seen what was committed, until there is no more to come. At
// shutdown a seen set that is away is not waited for again and again.
func (w *Worker) mark() {
	away := false
	for saved := range w.marks {
		if away && w.backlog.isClosed() {
			w.metrics.marks.WithLabelValues("skipped").Inc()
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		outcome := "marked"
		err := w.opts.Marker.Mark(ctx, saved.Timeline, saved.Keys)
		if away = err != nil; away {
			outcome = "failed"
		}
		w.metrics.marks.WithLabelValues(outcome).Inc()
		cancel()
	}
}
