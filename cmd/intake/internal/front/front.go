// Package front is the HTTP front that partners talk to: who is it, what do they
// send, what becomes of it. It judges a batch as far as it can, has the rest
// queued, and answers when it is committed.
package front

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/net/netutil"

	"intake"
	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/limit"
	"intake/cmd/intake/internal/origin"
	"intake/cmd/intake/internal/problem"
	"intake/cmd/intake/internal/reference"
	"intake/dedupe"
	"intake/worker/queue"
)

// A Queue takes what is to be saved.
type Queue interface {
	// Submit queues the items of a batch that are still pending. Its errors are package queue's.
	Submit(ctx context.Context, batch *intake.Batch, lane queue.Lane) (queue.Ticket, error)
	// Overloaded tells whether more is queued than can be saved in good time, and
	// after how long it won't be.
	Overloaded(lane queue.Lane) (after time.Duration, overloaded bool)
	// Backlog is about how long it takes to save what is queued; 0 if unknown.
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

// Options of a Front. Queue, Ledger, Questions, SeenSet and Auth are required.
type Options struct {
	Queue  Queue
	Ledger Ledger
	// Questions should have connections of its own: those who ask may wait long.
	Questions Questions
	SeenSet   SeenSet
	// Auth says who sends a request.
	Auth *auth.Authenticator
	// MaxInflightBytes bounds the memory of all batches together; 256 MiB when
	// zero, and never less than one request of the largest kind needs. Questions
	// have QuestionBytes more.
	MaxInflightBytes int64
	// Limiter holds partners to their limits; this front by itself when nil.
	Limiter *limit.Limiter
	// Proxies are the trusted proxies in front.
	Proxies origin.Proxies
	// MaxConnectionsPerAddress bounds the connections at once that come from an IPv4
	// address or an IPv6 network of 64 bits, other than a trusted proxy's: further ones
	// are closed at once. There is no bound when it is zero, but on all together.
	MaxConnectionsPerAddress int
	// Certificate is for TLS; without, requests come in plain.
	Certificate *Certificate
	// DrainDelay is how long the front goes on taking requests when it is to stop.
	// By then who spreads them has seen that it is not ready, and whoever was
	// answered has been told to connect elsewhere: no request comes to a connection
	// that is being closed.
	DrainDelay time.Duration
	// Ready and Live are what /readyz and /livez answer with.
	Ready, Live http.HandlerFunc
	Logger      *zap.Logger
	Registerer  prometheus.Registerer
}

// A Front answers partners.
type Front struct {
	opts      Options
	routes    map[string]map[string]http.HandlerFunc // by path and method
	budget    *budget                                // of batches
	questions *budget
	draining  atomic.Bool   // the front is to stop soon
	closing   chan struct{} // closed by close when the front takes no more
	close     func()
	decoding  chan struct{}      // has an entry for each large body that is being decoded
	zstd      chan *zstd.Decoder // those that are free
	// streamSilence is for how long nothing need come of a stream.
	streamSilence time.Duration
	// unreadLinger is for how long a connection stays whose request was refused unread.
	unreadLinger time.Duration
	metrics      *metrics
}

// New returns a front.
func New(opts Options) (*Front, error) {
	if opts.Queue == nil || opts.Ledger == nil || opts.Questions == nil || opts.SeenSet == nil || opts.Auth == nil {
		return nil, errors.New("front: Queue, Ledger, Questions, SeenSet and Auth are required")
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
	f.routes = map[string]map[string]http.HandlerFunc{
		"/api/v1/clients":        {http.MethodPost: f.create},
		statusPath:               {http.MethodGet: f.status},
		recordRoute:              {http.MethodGet: f.record},
		recordPath + "reconcile": {http.MethodGet: f.record, http.MethodPost: f.reconcile},
	}
	if opts.Auth.HasBuiltinIssuer() {
		f.routes["/oauth/token"] = map[string]http.HandlerFunc{http.MethodPost: refusing(opts.Auth.IssueToken)}
		f.routes["/.well-known/jwks.json"] = map[string]http.HandlerFunc{http.MethodGet: refusing(opts.Auth.ServeKeys)}
		f.routes["/.well-known/oauth-authorization-server"] = map[string]http.HandlerFunc{http.MethodGet: refusing(opts.Auth.ServeMetadata)}
	}
	f.routes[problemRoute] = map[string]http.HandlerFunc{http.MethodGet: refusing(problem.Describe)}
	issuer := reference.Issuer{TokenURL: opts.Auth.ExternalTokenURL, Only: !opts.Auth.HasBuiltinIssuer()}
	for path, serve := range reference.Handlers(issuer) {
		f.routes[path] = map[string]http.HandlerFunc{http.MethodGet: serve}
	}
	if opts.Live != nil {
		f.routes["/livez"] = map[string]http.HandlerFunc{http.MethodGet: opts.Live}
	}
	if opts.Ready != nil {
		f.routes["/readyz"] = map[string]http.HandlerFunc{http.MethodGet: opts.Ready}
	}
	return f, nil
}

// refusing answers with the problem that a handler returns.
func refusing(h problem.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			err.(*problem.Problem).Write(w)
		}
	}
}

// authenticate returns who sends a request. If they may not, it has answered.
func (f *Front) authenticate(w http.ResponseWriter, r *http.Request, scope string) (auth.Identity, bool) {
	who, err := f.opts.Auth.Authenticate(r, scope)
	if err != nil {
		err.(*problem.Problem).Write(w)
	}
	return who, err == nil
}

func (f *Front) isClosing() bool {
	select {
	case <-f.closing:
		return true
	default:
		return false
	}
}

// ServeHTTP answers a request.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	rec := &recorder{ResponseWriter: w, draining: &f.draining}
	rec.limitTime(r)
	secure(w.Header())
	defer func() {
		f.metrics.requests.WithLabelValues(strconv.Itoa(rec.status)).Inc()
		f.metrics.seconds.Observe(time.Since(began).Seconds())
		if rec.status == http.StatusTooManyRequests || rec.status == http.StatusServiceUnavailable {
			f.metrics.refused.Observe(time.Since(began).Seconds())
		}
	}()
	defer func() {
		if cause := recover(); cause != nil {
			if cause == http.ErrAbortHandler {
				panic(cause)
			}
			f.opts.Logger.Error("a request caused a panic", zap.Any("cause", cause), zap.ByteString("stack", debug.Stack()))
			if rec.status != 0 {
				panic(http.ErrAbortHandler)
			}
			(&problem.Problem{
				Code: problem.Fault,
				Detail: "this should not have happened, and what became of the request is not known: send it again; " +
					"the operator finds the cause in the log",
			}).Write(rec)
		}
	}()
	methods := f.routes[routeOf(r)]
	if methods == nil {
		(&problem.Problem{Code: problem.NoPath, Detail: "there is nothing at this path"}).Write(rec)
		return
	}
	handler := methods[r.Method]
	if handler == nil && r.Method == http.MethodHead {
		handler = methods[http.MethodGet]
	}
	if handler == nil {
		allowed := make([]string, 0, len(methods)+1)
		for method := range methods {
			allowed = append(allowed, method)
			if method == http.MethodGet {
				allowed = append(allowed, http.MethodHead)
			}
		}
		slices.Sort(allowed)
		rec.Header().Set("Allow", strings.Join(allowed, ", "))
		(&problem.Problem{Code: problem.Method, Detail: "use " + strings.Join(allowed, " or ")}).Write(rec)
		return
	}
	handler(rec, r)
}

// Headers of every answer. None of them is a page of ours, except the reference,
// which sets a policy of its own. They are shared, and never changed.
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

// routeOf gives the path of a request as the routes have it. An id may hold a
// slash, escaped.
func routeOf(r *http.Request) string {
	path := r.URL.EscapedPath()
	if strings.HasPrefix(path, statusPath) {
		return statusPath
	}
	if strings.HasPrefix(path, problem.Path) {
		return problemRoute
	}
	if id, ok := strings.CutPrefix(path, recordPath); ok && id != "" && id != "reconcile" && !strings.Contains(id, "/") {
		return recordRoute
	}
	return r.URL.Path
}

// A recorder keeps the status of an answer.
type recorder struct {
	http.ResponseWriter
	draining *atomic.Bool // whoever is answered is told to connect elsewhere
	status   int
}

// limitTime bounds how long the client may take to send its request. Without, the
// server would wait for ever for the body of a request that it refuses. A body
// that is read gets the time that it needs.
func (r *recorder) limitTime(request *http.Request) {
	if request.ContentLength != 0 {
		_ = http.NewResponseController(r).SetReadDeadline(time.Now().Add(slowest(0)))
	}
}

// WriteHeader bounds how long the client may take to read the answer as well: a
// long one needs more, see writeAnswer. Before the answer to a request that is
// refused, the server still waits for its body.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
		if r.draining.Load() {
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

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// problemRoute is the path of the description of a problem.
const problemRoute = problem.Path + "{code}"

type baseKey struct{}

// baseOf gives the context that a request's one comes from, which doesn't end when
// the client goes away.
func baseOf(r *http.Request) context.Context {
	if base, ok := r.Context().Value(baseKey{}).(context.Context); ok {
		return base
	}
	return r.Context()
}

// Listen listens at an address for Serve: not for Multipath TCP, whose sockets can't
// be closed without resetting connections, see refuseConnections.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	return config.Listen(ctx, "tcp", address)
}

// Serve serves partners at a listener until ctx ends. Then it takes no more of
// them, and ends when those that are in are answered, or when timeout has passed.
func (f *Front) Serve(ctx context.Context, listener net.Listener, timeout time.Duration) error {
	server := &http.Server{
		Handler:           f,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		// Over HTTP/2 none of the time-outs ends a connection whose headers don't end, or
		// whose client is gone; but who is in headers, or gone, can't answer a ping.
		HTTP2:    &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 15 * time.Second},
		ErrorLog: zap.NewStdLog(f.opts.Logger.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
	}
	var begun begunConnections
	server.ConnState = begun.track
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	bare := listener
	listener = netutil.LimitListener(f.limitHosts(listener), maxConnections)
	if f.opts.Certificate != nil {
		listener = tls.NewListener(listener, f.opts.Certificate.Config())
	}
	base, stopWaits := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWaits()
	server.BaseContext = func(net.Listener) context.Context { return context.WithValue(base, baseKey{}, base) }
	shut := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		f.draining.Store(true)
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		// Who still waits for a commit then is told to look later: that is better
		// than to be broken off.
		last := time.AfterFunc(timeout*8/10, stopWaits)
		defer last.Stop()
		f.drainConnections(bare, &begun, min(f.opts.DrainDelay, timeout/2))
		f.close()
		err := server.Shutdown(drain)
		if err != nil {
			err = errors.Join(fmt.Errorf("requests were broken off after %s: %w", timeout, err), server.Close())
		}
		shut <- err
	})
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return fmt.Errorf("serve partners: %w", err)
	}
	return <-shut
}

// drainConnections goes on serving for a while, at the end of which no more
// connections are made: those that are being made then have the time to be
// accepted, and to bring their request, a second longer if need be. Of a request that
// comes after Shutdown the server takes no notice.
func (f *Front) drainConnections(listener net.Listener, begun *begunConnections, while time.Duration) {
	last := min(while/2, 250*time.Millisecond)
	time.Sleep(while - last)
	if err := refuseConnections(listener); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		f.opts.Logger.Warn("connections that are being made now may be reset", zap.Error(err))
	}
	time.Sleep(last)
	for until := time.Now().Add(time.Second); (anyWaiting(listener) || begun.any()) && time.Now().Before(until); {
		time.Sleep(5 * time.Millisecond)
	}
}

// begunConnections are those over which no request has come yet.
type begunConnections struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// track is the server's ConnState.
func (b *begunConnections) track(conn net.Conn, state http.ConnState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if state != http.StateNew {
		delete(b.conns, conn)
		return
	}
	if b.conns == nil {
		b.conns = make(map[net.Conn]struct{})
	}
	b.conns[conn] = struct{}{}
}

func (b *begunConnections) any() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns) > 0
}
