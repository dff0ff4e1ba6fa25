// Package admin serves operators of a front or a worker: whether it lives and is ready, its
// metrics, and its profiles. Partners must not reach it.
package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// A Check returns why a part isn't ready, nil if it is.
type Check struct {
	Name  string
	Check func(context.Context) error
}

// A Handler answers operators and orchestrators. It is safe for concurrent use.
type Handler struct {
	checks   []Check
	draining atomic.Bool
	mux      http.ServeMux

	mu      sync.Mutex
	checked time.Time // guarded by mu, as are the two below: the last check
	names   []string
	err     error
}

// NewRegistry returns a registry with the metrics of the process.
func NewRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// New returns a handler.
func New(gatherer prometheus.Gatherer, checks ...Check) *Handler {
	h := &Handler{checks: checks}
	h.mux.HandleFunc("GET /livez", h.ServeLive)
	h.mux.HandleFunc("GET /readyz", h.serveReasons)
	h.mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
	h.mux.HandleFunc("/debug/pprof/", pprof.Index)
	h.mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	h.mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	h.mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	h.mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return h
}

// Drain makes the handler answer from now on that the process isn't ready.
func (h *Handler) Drain() { h.draining.Store(true) }

// Ready returns what isn't ready and why, nil if all is.
func (h *Handler) Ready(ctx context.Context) error {
	_, err := h.check(ctx)
	return err
}

// check returns the names of what isn't ready, and why.
func (h *Handler) check(ctx context.Context) (names []string, err error) {
	if h.draining.Load() {
		return []string{"shutting down"}, errors.New("shutting down")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var errs []error
	for _, check := range h.checks {
		if err := check.Check(ctx); err != nil {
			names = append(names, check.Name)
			errs = append(errs, fmt.Errorf("%s: %w", check.Name, err))
		}
	}
	return names, errors.Join(errs...)
}

// lastFor is how long an answer of /readyz is repeated. Anybody who can reach the port may
// ask, and each check costs other servers a round trip.
const lastFor = 200 * time.Millisecond

func (h *Handler) lastCheck(ctx context.Context) (names []string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.draining.Load() && time.Since(h.checked) < lastFor {
		return h.names, h.err
	}
	// The answer is repeated to others, so it must not depend on this request's context.
	h.names, h.err = h.check(context.WithoutCancel(ctx))
	h.checked = time.Now()
	return h.names, h.err
}

// ServeLive answers that the process lives.
func (h *Handler) ServeLive(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }

// ServeReady answers whether all parts are ready, and which aren't. It does not say why,
// because partners may ask.
func (h *Handler) ServeReady(w http.ResponseWriter, r *http.Request) {
	if names, err := h.lastCheck(r.Context()); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "not ready:", strings.Join(names, ", "))
		return
	}
	fmt.Fprintln(w, "ok")
}

// serveReasons is ServeReady with the reasons, for operators.
func (h *Handler) serveReasons(w http.ResponseWriter, r *http.Request) {
	if _, err := h.lastCheck(r.Context()); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, err)
		return
	}
	fmt.Fprintln(w, "ok")
}

// Serve serves operators until ctx ends.
func (h *Handler) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{Handler: &h.mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve operators: %w", err)
	}
	return nil
}
