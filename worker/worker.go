package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"intake"
	"intake/internal/safety"
	"intake/internal/sleep"
	"intake/worker/queue"
)

// A Store saves chunks: the data store.
type Store interface {
	// Save saves chunks in one transaction, and returns an outcome for each. After an error it is
	// unknown whether they are saved, and the same chunks have to be saved again. The error wraps
	// intake.ErrUnsavable if the store is up, and is an [*intake.UnknownPartnerError] if it has no such
	// partner as a chunk's. Save returns by itself if the store does not answer for long.
	Save(ctx context.Context, chunks []*intake.Chunk) (intake.Saved, error)
	// Ping returns nil if the store can be reached.
	Ping(ctx context.Context) error
}

// A Marker marks keys as seen, once they are committed: the seen set.
type Marker interface {
	Mark(ctx context.Context, timeline string, keys []intake.SavedKey) error
}

// Options are the options of a [Worker]. Only Store is required.
type Options struct {
	Store Store
	// Marker marks what is saved as seen. The default is not to.
	Marker Marker
	Stream queue.StreamOptions
	// Savers is how many transactions run concurrently. The default is 2.
	Savers int
	// AckWait is how long JetStream waits for a sign of life before it delivers a message to another
	// worker. The default is 10 s.
	AckWait time.Duration
	// Keep is how long the log keeps what is processed, as long as that takes no more than half of its
	// room. The default is 24 h.
	Keep time.Duration
	// ShutdownTimeout bounds the time that Run takes to return after its context has ended. The default
	// is 10 s.
	ShutdownTimeout time.Duration
	// Check says what NATS has to pass before anything is saved.
	Check      queue.Check
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// A Worker saves what is queued. Any number of workers can run concurrently, in any number of
// processes.
type Worker struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	opts     Options
	metrics  *workerMetrics
	backlog  *backlog
	marks    chan intake.Saved
	failing  atomic.Bool // whether the last transaction failed
	suspects suspects
	// maxDeliveries and maxAge are the constants of these names, other than in tests.
	maxDeliveries uint64
	maxAge        time.Duration
	// patience is how long a gathering is tried before it is handed back. It is delivered again after
	// twice firstNak, and twice as long each further time.
	patience, firstNak time.Duration
	// committed, if not nil, is called between the commit and the acks, by tests of a worker that dies
	// there.
	committed func()
}

// New returns a worker. Nothing happens before Run.
func New(nc *nats.Conn, opts Options) (*Worker, error) {
	if opts.Store == nil {
		return nil, errors.New("worker.New: Options.Store is required")
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

// Ready returns nil if the worker can reach the queue.
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

// Run saves what is queued until ctx ends. Then it stops gracefully: it fetches nothing more, finishes
// the transactions under way, hands what it has not begun back to the queue, and returns within
// ShutdownTimeout. It returns [safety.Breaches] if NATS may lose what it has stored.
func (w *Worker) Run(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	// The transactions under way when ctx ends go on for a while.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		w.backlog.close()
		// The rest of the time is for handing back what they held.
		time.AfterFunc(w.opts.ShutdownTimeout*8/10, cancel)
	})
	defer stop()

	var savers, fetchers, others sync.WaitGroup
	others.Go(func() { w.keepAlive(work) })
	others.Go(func() { w.tidy(work) })
	others.Go(func() { w.mark(context.WithoutCancel(ctx)) })
	checked := make(chan struct{})
	others.Go(func() {
		passed := sync.OnceFunc(func() { close(checked) })
		if breach := w.opts.Check.Watch(ctx, w.nc, w.opts.Stream, w.opts.Logger,
			func(uint64) { passed() }); breach != nil {
			end(breach)
		}
	})
	for range w.opts.Savers {
		savers.Go(func() { w.saveGatherings(work) })
	}
	w.opts.Logger.Info("worker started", zap.Int("savers", w.opts.Savers))
	fetchers.Go(func() {
		select {
		case <-checked:
			if breach := w.fetch(ctx); breach != nil {
				end(breach)
			}
		case <-ctx.Done():
		}
	})
	<-ctx.Done()
	savers.Wait()
	w.backlog.handBack()
	fetchers.Wait() // they hand back what has arrived since
	close(w.marks)
	cancel()
	others.Wait()
	// Acks and what is handed back are still in the connection's buffer.
	if err := w.nc.FlushTimeout(2 * time.Second); err != nil {
		w.opts.Logger.Warn("some acknowledgements may be lost, and their messages delivered again", zap.Error(err))
	}
	w.opts.Logger.Info("worker stopped")
	return safety.Cause(ctx)
}

// keepAlive sends a sign of life for each message that is held, three times within the ack wait.
func (w *Worker) keepAlive(ctx context.Context) {
	for sleep.For(ctx, w.opts.AckWait/3) {
		for _, msg := range w.backlog.messages() {
			_ = msg.InProgress() // if it gets lost, the message is delivered again
		}
	}
}
