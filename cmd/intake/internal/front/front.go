// Package front is the HTTP API that partners talk to. It decides what it can about a
// batch by itself, queues the rest, and answers when that is committed.
//
// A batch goes this way; each step may refuse it as a whole, before anything of it is
// queued:
//
//  1. ServeHTTP finds the handler (route.go); create asks package auth who sends it.
//  2. admit: is so much queued that it can't be saved in good time? (admit.go)
//  3. readLimited: package limit lets the partner have one more request in flight, and
//     the body is read and unpacked within the memory there is (limits.go, body.go,
//     paced.go, memory.go).
//  4. process decodes it, and takes its items from the partner's rate (request.go).
//  5. With an Idempotency-Key, createOnce reserves the key, or answers again (once.go).
//  6. judge decides the items that need not be saved: invalid ones, duplicates and
//     conflicts within the batch, and what the seen set knows.
//  7. save queues what is left, and waits for the verdicts until its commit, or until
//     the wait that the client asked for is over.
//  8. answer answers: 200, or 202 and where to look (answer.go).
//
// A stream (stream.go, lines.go) takes the same way for each of its lines. A dry run ends
// with validate instead of 5 to 7. What became of a batch is put together again in
// status.go; records.go answers what is saved.
//
// Every refusal is an error that a handler returns: a [problem.Problem], or errBroken
// where no answer is true. ServeHTTP alone answers with problems, and breaks off.
//
// # Why net/http
//
// For a request of one item and its answer, 2.5 KB each way over 64 connections, net/http
// takes 52 µs of processor time, of which deadlines are at most 2; fasthttp takes 27, and a
// loop that does nothing but read and write takes 21, most of it in system calls (medians of
// 5 rounds on two shared processors, on which the front took 250 µs for such a request, and
// all processes 590). net/http reads twice a request, since it watches for clients that go
// away. So a leaner server would save 4 % for single items, and nothing that can be measured
// for large batches. It would cost HTTP/2, streams that are answered while they are sent, the
// end of a request whose client is gone, and a parser that many people attack and repair.
package front

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"intake"
	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/limit"
	"intake/cmd/intake/internal/origin"
	"intake/cmd/intake/internal/problem"
	"intake/dedupe"
	"intake/worker/queue"
)

// A Queue takes what is to be saved.
type Queue interface {
	// Submit queues the items of a batch that are still pending. Its errors are package
	// queue's.
	Submit(ctx context.Context, batch *intake.Batch, lane queue.Lane) (queue.Ticket, error)
	// Overloaded reports whether more is queued than can be saved in good time, and
	// after how long it won't be.
	Overloaded(lane queue.Lane) (after time.Duration, overloaded bool)
	// Backlog returns about how long it takes to save what is queued, 0 if unknown.
	Backlog() time.Duration
	// Logged and Buried return the chunks of a batch that the log and the dead
	// letters have. Their error may be queue.ErrNoRoom.
	Logged(ctx context.Context, search queue.Search) ([]queue.StoredChunk, error)
	Buried(ctx context.Context, search queue.Search) ([]queue.StoredChunk, error)
}

// A SeenSet knows keys that were saved before.
type SeenSet interface {
	Ask(ctx context.Context, partner int32, clients []*intake.PartnerClient, seen []dedupe.Seen)
}

// A Store is the data store, as far as the front asks it.
type Store interface {
	// Finished returns those chunks of a partner's batch that are finished.
	Finished(ctx context.Context, partner int32, batch uuid.UUID) ([]intake.Finished, error)
	// Records returns those records of a partner that have one of the ids.
	Records(ctx context.Context, partner int32, ids []string) ([]intake.Record, error)
	// Record returns one of them, and how many claims it has.
	Record(ctx context.Context, partner int32, id string) (r intake.Record, claims int, ok bool, err error)

	// Reserve reserves a key of a partner for a body with this SHA-256. The reservation
	// ends with its lease if there is no answer by then.
	Reserve(
		ctx context.Context, partner int32, key string, hash [32]byte, batch uuid.UUID, lease time.Duration,
	) (intake.Reservation, error)
	// Renew lets a reservation last for lease from now on.
	Renew(ctx context.Context, partner int32, holder intake.Holder, lease time.Duration) error
	// KeepAnswer keeps the answer to a batch, and returns the first one that was
	// kept. It returns intake.ErrTakenOver if another holder has none yet.
	KeepAnswer(
		ctx context.Context, partner int32, holder intake.Holder, batch uuid.UUID, answer []byte,
	) (first []byte, err error)
	// Release ends a reservation that has no answer.
	Release(ctx context.Context, partner int32, holder intake.Holder) error
}

// Options of a Front. Queue, Store, Questions, SeenSet and Auth are required.
type Options struct {
	Queue Queue
	Store Store
	// Questions is a Store with connections of its own, for what partners ask: they may
	// wait long for those, and batches must not.
	Questions Store
	SeenSet   SeenSet
	// Auth says who sends a request.
	Auth *auth.Authenticator
	// MaxInflightBytes bounds the memory of all batches together. The default is 256 MiB;
	// a bound that one request of the largest kind would exceed is raised to that.
	// Questions have QuestionBytes more.
	MaxInflightBytes int64
	// Limiter holds partners to their limits. The default holds them on this front only.
	Limiter *limit.Limiter
	// Proxies are the trusted proxies in front.
	Proxies origin.Proxies
	// MaxConnectionsPerAddress bounds the concurrent connections from an IPv4 address or
	// an IPv6 network of 64 bits, other than a trusted proxy's; further ones are closed
	// immediately. Zero means no bound but the one on all connections together.
	MaxConnectionsPerAddress int
	// Certificate is for TLS; without it, requests are plain HTTP.
	Certificate *Certificate
	// DrainDelay is how long the front keeps serving after shutdown begins. During it
	// /readyz fails, so load balancers stop routing here, and every response carries
	// Connection: close. At most half of the shutdown's timeout.
	DrainDelay time.Duration
	// Ready and Live answer /readyz and /livez.
	Ready, Live http.HandlerFunc
	Logger      *zap.Logger
	Registerer  prometheus.Registerer
}

// A Front answers partners. It is safe for concurrent use.
type Front struct {
	opts      Options
	routes    routes
	budget    *budget // of batches
	questions *budget
	draining  atomic.Bool   // shutdown has begun
	closing   chan struct{} // closed by close when no more requests are taken
	close     func()
	decoding  chan struct{}      // has an entry for each large body that is being decoded
	zstd      chan *zstd.Decoder // those that are free
	// streamSilence is how long a stream may send nothing.
	streamSilence time.Duration
	// unreadLinger is how long a connection stays open whose request was refused unread.
	unreadLinger time.Duration
	metrics      *metrics
}

// New returns a front.
func New(opts Options) (*Front, error) {
	if opts.Queue == nil || opts.Store == nil || opts.Questions == nil || opts.SeenSet == nil || opts.Auth == nil {
		return nil, errors.New("front: Queue, Store, Questions, SeenSet and Auth are required")
	}
	if opts.MaxInflightBytes <= 0 {
		opts.MaxInflightBytes = 256 << 20
	}
	opts.MaxInflightBytes = max(opts.MaxInflightBytes, minInflightBytes)
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	if opts.Limiter == nil {
		opts.Limiter = limit.New(limit.Options{Logger: opts.Logger})
	}
	decoders, err := newZstdDecoders()
	if err != nil {
		return nil, err
	}
	f := &Front{opts: opts, zstd: decoders, metrics: newMetrics(opts.Registerer)}
	f.closing = make(chan struct{})
	f.close = sync.OnceFunc(func() { close(f.closing) })
	f.streamSilence, f.unreadLinger = streamSilence, time.Second
	f.decoding = make(chan struct{}, max(runtime.GOMAXPROCS(0)-1, 1))
	f.budget = newBudget(opts.MaxInflightBytes, f.metrics.inflight)
	f.questions = newBudget(QuestionBytes(opts.MaxInflightBytes), f.metrics.questions)
	f.routes = f.makeRoutes()
	return f, nil
}

// errBroken is returned where no answer would be true, or half of one is sent: the
// connection is broken off. The cause was logged.
var errBroken = errors.New("the request is broken off")

// ServeHTTP answers a request.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	rec := &recorder{ResponseWriter: w, draining: &f.draining, isHTTP1: r.ProtoMajor == 1}
	rec.limitTime(r)
	secure(w.Header())
	defer func() {
		f.metrics.requests.WithLabelValues(strconv.Itoa(rec.status)).Inc()
		f.metrics.seconds.Observe(time.Since(began).Seconds())
		if rec.status == http.StatusTooManyRequests || rec.status == http.StatusServiceUnavailable {
			f.metrics.refused.Observe(time.Since(began).Seconds())
		}
	}()
	if err := f.handle(rec, r); err != nil && !f.refuse(rec, r, err) {
		panic(http.ErrAbortHandler)
	}
}

// handle answers a request, or returns why it is refused.
func (f *Front) handle(w *recorder, r *http.Request) (err error) {
	defer func() {
		switch cause := recover(); cause {
		case nil:
		case http.ErrAbortHandler:
			err = errBroken
		default:
			f.opts.Logger.Error("a request caused a panic", zap.Any("cause", cause),
				zap.ByteString("stack", debug.Stack()))
			err = errFault
		}
	}()
	handler, err := f.routes.find(r)
	if err != nil {
		return err
	}
	return handler(w, r)
}

var errFault = problem.New(problem.Fault,
	"this should not have happened, and what became of the request is not known: send it again; "+
		"the operator finds the cause in the log")

// refuse answers with the problem that a handler has returned. It reports false if the
// connection must be broken off instead.
func (f *Front) refuse(w *recorder, r *http.Request, err error) bool {
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok && !errors.Is(err, errBroken) {
		f.opts.Logger.Error("a request failed for an unexpected reason", zap.Error(err))
		p, ok = errFault, true
	}
	if !ok || w.status != 0 {
		return false
	}
	if _, unread := errors.AsType[unreadError](err); unread && f.refuseUnread(w, r, p) {
		return true
	}
	p.Write(w)
	return true
}

// Headers of every answer. No answer is a page, except the reference, which sets a policy
// of its own. The values are shared, and never changed.
var (
	strictPolicy = []string{"default-src 'none'; frame-ancestors 'none'"}
	noSniff      = []string{"nosniff"}
	noReferrer   = []string{"no-referrer"}
)

// secure keeps browsers from making more of an answer than it is.
func secure(header http.Header) {
	header["Content-Security-Policy"] = strictPolicy
	header["X-Content-Type-Options"] = noSniff
	header["Referrer-Policy"] = noReferrer
}

// A recorder keeps the status of an answer.
type recorder struct {
	http.ResponseWriter
	draining *atomic.Bool // whether to close connections with their answers
	isHTTP1  bool
	early    bool // see answerEarly
	status   int
}

// limitTime bounds how long the client may take to send its request. Without it, the
// server would wait forever for the body of a request that it refuses. A body that is
// read gets the time that it needs, see pacedReader.
func (r *recorder) limitTime(request *http.Request) {
	if request.ContentLength != 0 {
		_ = http.NewResponseController(r).SetReadDeadline(time.Now().Add(slowest(0)))
	}
}

// WriteHeader also bounds how long the client may take to read the answer: twice as long
// as for a small one, since the server still waits for the body of a request that is
// refused. A long answer gets more time, see limitWrite.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
		if r.draining.Load() || r.early && r.isHTTP1 {
			r.Header().Set("Connection", "close")
		}
		_ = http.NewResponseController(r).SetWriteDeadline(time.Now().Add(2 * slowest(0)))
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap is for [http.ResponseController].
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
