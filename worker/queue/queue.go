package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"intake"
	"intake/internal/safety"
	"intake/internal/sleep"
)

var (
	// ErrUnavailable is returned by [Queue.Submit] for a batch that cannot be queued safely now. No
	// part of it is queued or will be saved.
	ErrUnavailable = errors.New("the queue is unavailable")
	// ErrFull is the [ErrUnavailable] of a queue without room.
	ErrFull = fmt.Errorf("%w: it is full", ErrUnavailable)
	// ErrUncertain is returned by [Queue.Submit] if neither the queue nor the data store says whether
	// the batch is queued.
	ErrUncertain = errors.New("it is not known whether the batch is queued")
)

// A Ledger knows for certain how a batch ended: the data store.
type Ledger interface {
	// Outcomes returns the outcomes of those chunks of the batches that are finished.
	Outcomes(ctx context.Context, batches []uuid.UUID) ([]intake.Outcome, error)
	// Withdraw makes sure that no chunk of a batch will be saved. If one is finished already, it does
	// nothing and ok is false. It fails for a holder that has lost its key to a repeat.
	Withdraw(ctx context.Context, chunks []*intake.Chunk, holder *intake.Holder) (ok bool, err error)
}

// Options are the options of a [Queue]. Only Ledger is required.
type Options struct {
	Ledger Ledger
	Stream StreamOptions
	// PublishTimeout bounds the time until it is known whether a batch is queued. The default is 5 s,
	// the maximum 30 s.
	PublishTimeout time.Duration
	// MaxBacklog is how long it may take to save what is queued before more is refused; see
	// [Queue.Overloaded]. The default is 10 s.
	MaxBacklog time.Duration
	// Check says what NATS has to pass before anything is queued.
	Check      Check
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// A Queue is a front's side of the queue. It is safe for concurrent use. Batches can be submitted
// while Run runs.
type Queue struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	opts    Options
	reply   string // subject for outcomes
	metrics *queueMetrics
	waiting *publishQueue
	// used is how many bytes the stream holds, and laterLimit at how many the Later lane is closed.
	// Both are 0 until the stream was read.
	used, laterLimit atomic.Int64
	checked          atomic.Uint64 // number of the connection that has passed the check
	asked            atomic.Int64  // when a batch was last submitted or refused, in Unix nanoseconds
	backlog          backlogEstimate
	storing          storing

	mu      sync.Mutex
	waiters map[uuid.UUID]*waiter // by batch; guarded by mu
}

// New returns a front's side of the queue. Run connects it to the stream.
func New(nc *nats.Conn, opts Options) (*Queue, error) {
	if opts.Ledger == nil {
		return nil, errors.New("queue.New: Options.Ledger is required")
	}
	if opts.PublishTimeout <= 0 {
		opts.PublishTimeout = 5 * time.Second
	}
	opts.PublishTimeout = min(opts.PublishTimeout, duplicateWindow/4)
	if opts.MaxBacklog <= 0 {
		opts.MaxBacklog = 10 * time.Second
	}
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	opts.Stream.AllowFewer = opts.Check.AllowUnsafe
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	return &Queue{
		nc: nc, js: js, opts: opts,
		reply:   outcomePrefix + nuid.Next(),
		metrics: newQueueMetrics(opts.Registerer),
		waiting: newPublishQueue(),
		waiters: make(map[uuid.UUID]*waiter),
	}, nil
}

// errNotChecked is returned while no connection to NATS has passed the check.
var errNotChecked = errors.New("the settings of NATS are not checked yet")

// checkedConnection returns the number of the connection to NATS, or 0 if there is none or it has not
// passed the check: after a reconnect the server may be another one, or have other settings.
func (q *Queue) checkedConnection() uint64 {
	if connection := connectionOf(q.nc); connection == q.checked.Load() {
		return connection
	}
	return 0
}

// Ready returns nil if batches can be queued now, and otherwise the reason why not.
func (q *Queue) Ready(ctx context.Context) error {
	if err := q.storing.why(); err != nil {
		return err
	}
	if err := CheckConnected(q.nc); err != nil {
		return err
	}
	if q.checkedConnection() == 0 {
		return errNotChecked
	}
	if _, err := q.js.Stream(ctx, StreamName); err != nil {
		return fmt.Errorf("stream %s: %w", StreamName, err)
	}
	return nil
}

// Run publishes what is submitted and listens for outcomes until ctx ends. Batches that are not being
// published by then are refused. Run returns [safety.Breaches] if NATS may lose what it has stored.
func (q *Queue) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sub, err := q.nc.Subscribe(q.reply, q.receive)
	if err != nil {
		return fmt.Errorf("listen for outcomes: %w", err)
	}
	defer sub.Unsubscribe()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() {
		for _, s := range q.waiting.close() {
			s.done <- fmt.Errorf("%w: shutting down", ErrUnavailable)
		}
	}()
	// What is being published when ctx ends is answered once it is known whether it is queued, which
	// takes no longer than its deadline.
	publishing := context.WithoutCancel(ctx)
	wg.Go(func() { q.publishWaiting(publishing) })
	wg.Go(func() {
		if breach := q.opts.Check.Watch(ctx, q.nc, q.opts.Stream, q.opts.Logger, q.checked.Store); breach != nil {
			cancel(breach)
		}
	})
	wg.Go(func() {
		if breach := q.createLog(ctx); breach != nil {
			cancel(breach)
		}
		q.watchRoom(ctx)
	})
	wg.Go(func() { q.watchStoring(ctx) })
	q.readLedger(ctx)
	return safety.Cause(ctx)
}

// createLog creates the stream if there is none. It tries until it succeeds or ctx ends, and returns
// [safety.Breaches] if NATS cannot create it as it has to be.
func (q *Queue) createLog(ctx context.Context) error {
	said := ""
	for {
		if !AwaitConnection(ctx, q.nc) {
			return nil
		}
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := createLog(try, q.js, q.opts.Stream)
		cancel()
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if breaches, _ := safety.Find(err); len(breaches) > 0 {
			return breaches
		}
		if text := err.Error(); text != said { // once
			said = text
			q.opts.Logger.Warn("cannot create the queue's stream, trying again", zap.Error(err))
		}
		if !sleep.For(ctx, time.Second) {
			return nil
		}
	}
}

// watchRoom polls the stream once a second. It updates the backlog estimate behind Overloaded, and
// the byte limit that Submit applies to the Later lane: three quarters of the log. Workers purge what
// is processed down to half, so anything above is unprocessed.
func (q *Queue) watchRoom(ctx context.Context) {
	for ; ctx.Err() == nil; sleep.For(ctx, time.Second) {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		stream, err := q.js.Stream(try, StreamName)
		cancel()
		if err != nil {
			continue // nothing can be queued either
		}
		info := stream.CachedInfo()
		q.used.Store(int64(info.State.Bytes))
		q.laterLimit.Store(info.Config.MaxBytes / 4 * 3)
		try, cancel = context.WithTimeout(ctx, 5*time.Second)
		q.updateBacklog(try, stream)
		cancel()
	}
}

// Submit queues the items of a batch that have no verdict yet; all of them are queued, or none. A
// batch without an ID gets one, which its ticket returns. Submit returns once the batch is on disk.
// The caller must release the ticket. The error may be [ErrUnavailable], [ErrFull], [ErrUncertain] or
// [ErrTooLarge].
func (q *Queue) Submit(ctx context.Context, batch *intake.Batch, lane Lane) (Ticket, error) {
	q.asked.Store(time.Now().UnixNano())
	if limit := q.laterLimit.Load(); lane == Later && limit > 0 && q.used.Load() > limit {
		return nil, fmt.Errorf("%w: the room that is left is kept for clients that wait", ErrFull)
	}
	if q.checkedConnection() == 0 {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, errNotChecked)
	}
	chunks, datas, err := encode(batch, int(q.nc.MaxPayload()))
	if err != nil {
		return nil, err
	}
	s := &submission{
		waiter: newWaiter(q, batch, chunks),
		topic:  lane.Name(&batch.Partner) + "." + batch.Partner.Name,
		base:   batch.ID, holder: batch.Holder, chunks: chunks, datas: datas,
		deadline: time.Now().Add(q.opts.PublishTimeout), done: make(chan error, 1),
	}
	for _, data := range datas {
		s.bytes += len(data)
	}
	for i := range batch.Items {
		s.raw += len(batch.Items[i].Raw)
	}
	if err := q.publish(ctx, s); err != nil {
		q.forget(s.waiter)
		if s.waiter.id != uuid.Nil {
			err = fmt.Errorf("batch %s: %w", s.waiter.id, err)
		}
		return nil, err
	}
	return s.waiter, nil
}

// publish hands a submission to the publisher and waits for its end. A submission that the publisher
// has not taken yet is given up when ctx ends or its time is over.
func (q *Queue) publish(ctx context.Context, s *submission) error {
	if !q.waiting.add(s) {
		return fmt.Errorf("%w: shutting down", ErrUnavailable)
	}
	timeout := time.NewTimer(q.opts.PublishTimeout)
	defer timeout.Stop()
	var cause error
	select {
	case err := <-s.done:
		return err
	case <-ctx.Done():
		cause = ctx.Err()
	case <-timeout.C:
		cause = fmt.Errorf("other batches took longer than %s to be queued", q.opts.PublishTimeout)
	}
	if q.waiting.remove(s) {
		return fmt.Errorf("%w: %w", ErrUnavailable, cause)
	}
	// It may be queued by now. The publisher knows within its deadline.
	return <-s.done
}
