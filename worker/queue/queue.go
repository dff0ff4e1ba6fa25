package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/synadia-io/orbit.go/jetstreamext"
	"go.uber.org/zap"

	"intake"
	"intake/internal/failpoint"
	"intake/internal/safety"
	"intake/internal/sleep"
)

var (
	// ErrUnavailable is Submit's answer when the batch can't be queued safely
	// now. Nothing of it is queued, or will be saved.
	ErrUnavailable = errors.New("the queue can't take the batch now")
	// ErrFull is ErrUnavailable because the queue has no room.
	ErrFull = fmt.Errorf("%w: it is full", ErrUnavailable)
	// ErrUncertain is Submit's answer when it can't be known whether the batch
	// is queued: neither the queue nor the data store answers.
	ErrUncertain = errors.New("it is not known whether the batch is queued")
)

// A Ledger tells for certain what became of a batch: the data store.
type Ledger interface {
	// Outcomes gives those chunks of the batches that are finished.
	Outcomes(ctx context.Context, batches []uuid.UUID) ([]intake.Outcome, error)
	// Withdraw sees to it that no chunk of a batch will be saved, unless one is
	// finished already: then it does nothing, and ok is false.
	// It fails for a holder whom another one has taken over.
	Withdraw(ctx context.Context, chunks []*intake.Chunk, holder *intake.Holder) (ok bool, err error)
}

// QueueOptions of a Queue. Only Ledger is required.
type Options struct {
	Ledger Ledger
	Stream StreamOptions
	// PublishTimeout bounds the time until a batch is known to be queued; 5 s
	// when zero, at most 30 s.
	PublishTimeout time.Duration
	// MaxBacklog is how long it may take to save what is queued before more is
	// refused; 10 s when zero. See Overloaded.
	MaxBacklog time.Duration
	// Check is made before anything is queued.
	Check      Check
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// A Queue is a front's side of the queue. Any number of goroutines may submit
// at once, while Run runs.
type Queue struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	opts    Options
	reply   string
	metrics *queueMetrics
	line    *publishQueue
	// used is how many bytes the stream holds, as far as is known, and room how
	// many it may for batches that nobody waits for; 0: not known.
	used, room atomic.Int64
	checked    atomic.Uint64 // the connection whose server keeps what it stores
	asked      atomic.Int64  // when a batch came last, submitted or refused, in Unix nanoseconds
	drain      backlogEstimate
	storing    storing

	mu      sync.Mutex
	waiters map[uuid.UUID]*waiter // by batch; guarded by mu
}

// A submission is a batch on its way into the stream.
type submission struct {
	waiter   *waiter
	holder   *intake.Holder
	topic    string // lane and partner, as in a subject
	chunks   []*intake.Chunk
	datas    [][]byte  // the chunks, encoded
	bytes    int       // of datas
	raw      int       // bytes of the items as sent
	base     uuid.UUID // of a batch that has its ID already
	deadline time.Time
	done     chan error
}

// Bounds of the batches that share a message: of each, and of all.
const (
	maxSmallBytes = 64 << 10
	maxGroupBytes = 512 << 10
	maxGroupRaw   = maxChunkBytes // of items as sent, which compress without bound
)

// isSmall tells whether the batch may share a message with others. A message is
// synced by itself, so a small one is dear; a large one would only keep others
// waiting.
func (s *submission) isSmall() bool {
	return len(s.datas) == 1 && s.bytes <= maxSmallBytes && s.base == uuid.Nil
}

// NewQueue makes a front's side of the queue.
func New(nc *nats.Conn, opts Options) (*Queue, error) {
	if opts.Ledger == nil {
		return nil, errors.New("a queue needs a ledger")
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
		line:    newPublishQueue(),
		waiters: make(map[uuid.UUID]*waiter),
	}, nil
}

// errNotChecked is of a connection, and of what was to be published over it.
var errNotChecked = errors.New("the settings of NATS are not checked yet")

// checkedConnection is the connection to NATS, 0 while there is none or it is not
// checked: it may lead to another server, or to one that was restarted with other
// settings.
func (q *Queue) checkedConnection() uint64 {
	if connection := connectionOf(q.nc); connection == q.checked.Load() {
		return connection
	}
	return 0
}

// Ready tells whether batches can be queued now.
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

// Run publishes what is submitted and listens for outcomes, until ctx ends. It
// ends with safety.Breaches if NATS may lose what it has stored.
func (q *Queue) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sub, err := q.nc.Subscribe(q.reply, q.hear)
	if err != nil {
		return fmt.Errorf("listen for outcomes: %w", err)
	}
	defer sub.Unsubscribe()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() {
		for _, s := range q.line.close() {
			s.done <- fmt.Errorf("%w: shutting down", ErrUnavailable)
		}
	}()
	wg.Go(q.publishWaiting) // one: while it commits the next group gathers, and two would make smaller groups
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

// createLog returns when the log is there, or with safety.Breaches if it can't be
// as it should.
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
		if text := err.Error(); text != said {
			said = text
			q.opts.Logger.Warn("cannot create the queue, trying again", zap.Error(err))
		}
		if !sleep.For(ctx, time.Second) {
			return nil
		}
	}
}

// watchRoom watches how fast what is queued is saved, and sees to it that batches that nobody waits for leave room for others.
// What is processed takes half of the room at most: beyond three quarters, it is
// unprocessed batches that take it.
func (q *Queue) watchRoom(ctx context.Context) {
	for ; ctx.Err() == nil; sleep.For(ctx, time.Second) {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		stream, err := q.js.Stream(try, StreamName)
		cancel()
		if err != nil {
			continue // then nothing can be queued either
		}
		info := stream.CachedInfo()
		q.used.Store(int64(info.State.Bytes))
		q.room.Store(info.Config.MaxBytes / 4 * 3)
		try, cancel = context.WithTimeout(ctx, 5*time.Second)
		q.watchDrain(try, stream)
		cancel()
	}
}

// Submit names a batch, if it has no name yet, and queues it: the items on which
// there is no verdict yet are to be saved, all or none of them. It returns when
// they are on disk. The ticket must be released. It may return ErrUnavailable,
// ErrUncertain or ErrTooLarge.
func (q *Queue) Submit(ctx context.Context, batch *intake.Batch, lane Lane) (Ticket, error) {
	q.asked.Store(time.Now().UnixNano())
	if room := q.room.Load(); lane == Later && room > 0 && q.used.Load() > room {
		return nil, fmt.Errorf("%w: what room is left is for those who wait", ErrFull)
	}
	if q.checkedConnection() == 0 {
		return nil, fmt.Errorf("%w: NATS is away, or is not checked yet", ErrUnavailable)
	}
	chunks, datas, err := encode(batch, int(q.nc.MaxPayload()))
	if err != nil {
		return nil, err
	}
	s := &submission{
		waiter: newWaiter(q, batch, chunks), holder: batch.Holder, topic: lane.Name(&batch.Partner) + "." + batch.Partner.Name, chunks: chunks, datas: datas,
		base: batch.ID, deadline: time.Now().Add(q.opts.PublishTimeout), done: make(chan error, 1),
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

func (q *Queue) publish(ctx context.Context, s *submission) error {
	if !q.line.join(s) {
		return fmt.Errorf("%w: shutting down", ErrUnavailable)
	}
	enough := time.NewTimer(q.opts.PublishTimeout)
	defer enough.Stop()
	var cause error
	select {
	case err := <-s.done:
		return err
	case <-ctx.Done():
		cause = ctx.Err()
	case <-enough.C:
		cause = errors.New("others are still being queued")
	}
	if q.line.leave(s) {
		return fmt.Errorf("%w: %w", ErrUnavailable, cause)
	}
	// It may be queued by now, so its end is waited for, which is bounded.
	return <-s.done
}

func (q *Queue) remember(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiters[w.id] = w
}

func (q *Queue) forget(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.waiters, w.id)
}

// publishWaiting publishes what has gathered while the last group was published,
// until the line is closed.
func (q *Queue) publishWaiting() {
	for {
		group := q.line.take(min(maxGroupBytes, int(q.nc.MaxPayload())-MessageOverhead))
		if group == nil {
			return
		}
		err := q.publishGroup(group)
		for _, s := range group {
			s.done <- err
		}
	}
}

// publishGroup names the batches of a group and publishes them, all or none: one
// message for several batches, or the messages of one large batch.
func (q *Queue) publishGroup(group []*submission) error {
	base := group[0].base
	if base == uuid.Nil {
		var err error
		if base, err = newBase(); err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	var chunks []*intake.Chunk
	deadline := group[0].deadline
	for i, s := range group {
		s.waiter.id = nameBatch(base, i)
		for _, chunk := range s.chunks {
			chunk.Batch = s.waiter.id
		}
		chunks = append(chunks, s.chunks...)
		if s.deadline.Before(deadline) {
			deadline = s.deadline
		}
		q.remember(s.waiter)
	}
	failpoint.Hit("queue/publishing")
	err := q.publishUntilKnown(&publication{
		chunks: chunks, msgs: q.messages(base, group), deadline: deadline, holder: group[0].holder,
	})
	failpoint.Hit("queue/published")
	return err
}

func (q *Queue) messages(base uuid.UUID, group []*submission) (msgs []*nats.Msg) {
	if len(group) == 1 {
		for _, data := range group[0].datas {
			msgs = append(msgs, newMessage(base, group[0].topic, len(msgs), appendMessage(nil, base, q.reply, 0, group[0].holder, data)))
		}
		return msgs
	}
	data := appendMessage(make([]byte, 0, maxGroupBytes/4), base, q.reply, 0, nil, group[0].datas[0])
	for i, s := range group[1:] {
		data = appendChunks(data, i+1, nil, s.datas[0])
	}
	return []*nats.Msg{newMessage(base, group[0].topic, 0, data)}
}

func newMessage(base uuid.UUID, topic string, n int, data []byte) *nats.Msg {
	number := strconv.Itoa(n)
	msg := nats.NewMsg(SubjectPrefix + topic + "." + base.String() + "." + number)
	msg.Header.Set(jetstream.MsgIDHeader, base.String()+"-"+number)
	msg.Data = data
	return msg
}

// tryTimeout bounds one publish. It is tried again until the submission's
// deadline: JetStream tells by the message's id that it has it.
const tryTimeout = 2 * time.Second

// A publication is messages that are to be stored all or none.
type publication struct {
	chunks   []*intake.Chunk // that they hold
	msgs     []*nats.Msg
	deadline time.Time
	holder   *intake.Holder // of their one batch, if it has an Idempotency-Key
}

// publishUntilKnown publishes messages until it is known whether their chunks
// are queued.
func (q *Queue) publishUntilKnown(p *publication) error {
	uncertain := false // whether a publish was neither confirmed nor refused
	for try := 0; ; try++ {
		err := q.commit(p.msgs, p.deadline)
		switch {
		case err == nil:
			return nil
		case isDuplicate(err):
			// Some of them are stored, if not all.
			return q.publishEach(p)
		case refused(err) && len(p.msgs) > 1 && !uncertain:
			// A server whose disk is full may have stored the first of them.
			return q.withdraw(p, err)
		case refused(err) && !uncertain:
			q.doubtStoring(err)
			q.metrics.failures.WithLabelValues("refused").Inc()
			return fmt.Errorf("%w: %w", unavailable(err), err)
		case !refused(err):
			uncertain = true
		}
		wait := 50 * time.Millisecond << min(try, 4)
		if time.Until(p.deadline) < wait {
			return q.withdraw(p, err)
		}
		time.Sleep(wait)
	}
}

// publishEach publishes those of a batch's messages that the stream lacks.
func (q *Queue) publishEach(p *publication) error {
	for _, msg := range p.msgs {
		for _, header := range []string{jetstreamext.BatchIDHeader, jetstreamext.BatchSeqHeader, jetstreamext.BatchCommitHeader} {
			msg.Header.Del(header)
		}
		for try := 0; ; try++ {
			err := q.commit([]*nats.Msg{msg}, p.deadline)
			if err == nil {
				break
			}
			wait := 50 * time.Millisecond << min(try, 4)
			if time.Until(p.deadline) < wait {
				return q.withdraw(p, err)
			}
			time.Sleep(wait)
		}
	}
	return nil
}

// commit publishes messages, all or none, in one commit of the stream. They count
// only if a server has them that was checked.
func (q *Queue) commit(msgs []*nats.Msg, deadline time.Time) error {
	connection := q.checkedConnection()
	if connection == 0 {
		return errNotChecked
	}
	timeout := min(tryTimeout, max(time.Until(deadline), 100*time.Millisecond))
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	began := time.Now()
	var err error
	if len(msgs) == 1 {
		_, err = q.js.PublishMsg(ctx, msgs[0], jetstream.WithRetryAttempts(0))
	} else {
		_, err = jetstreamext.PublishMsgBatch(ctx, q.js, msgs, jetstreamext.BatchFlowControl{})
	}
	q.metrics.publish.Observe(time.Since(began).Seconds())
	if err == nil && q.checkedConnection() != connection {
		err = errors.New("NATS was reconnected to meanwhile")
	}
	if err == nil {
		q.storing.stored()
		q.metrics.published.Add(float64(len(msgs)))
		q.drain.add(laneOf(msgs[0].Subject), len(msgs))
		for _, msg := range msgs {
			q.used.Add(int64(len(msg.Data))) // until it is read again
		}
	}
	return err
}

// refused tells of a publish's error whether it says that nothing was stored.
func refused(err error) bool {
	var answer jetstream.JetStreamError
	if errors.As(err, &answer) && answer.APIError() != nil {
		return answer.APIError().ErrorCode != errConflictingDuplicate
	}
	return errors.Is(err, errNotChecked) || errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrMaxPayload)
}

// unavailable returns ErrFull if a publish was refused because the stream or its
// server can't store any more, and ErrUnavailable otherwise.
func unavailable(cause error) error {
	const noResources, noStorage, storeFailed jetstream.ErrorCode = 10023, 10047, 10077
	var answer jetstream.JetStreamError
	if errors.As(cause, &answer) && answer.APIError() != nil {
		switch answer.APIError().ErrorCode {
		case noResources, noStorage, storeFailed:
			return ErrFull
		}
	}
	return ErrUnavailable
}

// errConflictingDuplicate says that the same message is being stored right now.
const errConflictingDuplicate jetstream.ErrorCode = 10158

// isDuplicate tells whether messages were refused together because at least one
// of them is stored.
func isDuplicate(err error) bool {
	return errors.Is(err, jetstreamext.ErrBatchPublishDuplicateMsgID)
}

// withdraw settles chunks of which it isn't known whether the messages that hold
// them are queued. The partner may only be told to send it again when it will never be saved:
// else the answer to the repeat, Duplicate, would be of a batch that was refused.
func (q *Queue) withdraw(p *publication, cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	q.doubtStoring(cause)
	ok, err := q.opts.Ledger.Withdraw(ctx, p.chunks, p.holder)
	switch {
	case err != nil:
		q.metrics.failures.WithLabelValues("uncertain").Inc()
		return fmt.Errorf("%w: %w; withdraw it: %w", ErrUncertain, cause, err)
	case ok:
		q.metrics.failures.WithLabelValues("withdrawn").Inc()
		return fmt.Errorf("%w: %w", unavailable(cause), cause)
	case len(p.msgs) > 1: // one is finished, others may not even be queued
		q.metrics.failures.WithLabelValues("uncertain").Inc()
		return fmt.Errorf("%w: %w", ErrUncertain, cause)
	}
	return nil
}

// hear takes outcomes that a worker tells of.
func (q *Queue) hear(msg *nats.Msg) {
	if err := readOutcomes(msg.Data, q.deliver); err != nil {
		q.opts.Logger.Warn("cannot read outcomes", zap.Error(err))
	}
}

func (q *Queue) deliver(outcome intake.Outcome) {
	q.mu.Lock()
	w := q.waiters[outcome.Batch]
	q.mu.Unlock()
	if w != nil {
		w.deliver(outcome)
	}
}

// readLedger finds the outcomes that a worker could not tell of, or whose
// message was lost: it asks the data store for what has waited for long.
func (q *Queue) readLedger(ctx context.Context) {
	const (
		every  = 500 * time.Millisecond
		long   = time.Second
		atOnce = 1_000
	)
	for sleep.For(ctx, every) {
		batches := q.waitingLonger(long, atOnce)
		if len(batches) == 0 {
			continue
		}
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		outcomes, err := q.opts.Ledger.Outcomes(try, batches)
		cancel()
		if err != nil {
			q.opts.Logger.Debug("cannot read outcomes from the data store", zap.Error(err))
		}
		for _, outcome := range outcomes {
			q.deliver(outcome)
		}
	}
}

func (q *Queue) waitingLonger(than time.Duration, limit int) (batches []uuid.UUID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for id, w := range q.waiters {
		if len(batches) == limit {
			break
		}
		if time.Since(w.since) > than {
			batches = append(batches, id)
		}
	}
	return batches
}
