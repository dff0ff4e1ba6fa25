package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"intake/cmd/intake/internal/admin"
	"intake/dedupe"
	"intake/sink"
	"intake/worker/queue"
)

// serverFlags say where the three servers are.
type serverFlags struct {
	PostgresURL   string `name:"postgres-url" required:"" help:"The data store: postgres://user:password@host/database."`
	NATSURL       string `name:"nats-url" required:"" help:"The queue: nats://user:password@host, several separated by commas for a cluster."`
	RedisURL      string `name:"redis-url" help:"The seen set: redis://:password@host, several separated by commas for Redis Cluster; none if empty, which costs speed only."`
	QueueMaxBytes int64  `default:"4294967296" help:"Room of the queue on disk in bytes; beyond it batches are refused."`
	QueueReplicas int    `default:"1" help:"Copies of the queue in a NATS cluster, at least: a queue that has fewer gets them, one that has more keeps them."`

	NATSMonitorURL []string `name:"nats-monitor-url" help:"Where the HTTP monitoring of each NATS server is, as in http://nats:8222, to see whether they sync each message."`
	AllowUnsafe    bool     `help:"Go on with servers that may lose what they say they have stored."`
}

func (f serverFlags) check() queue.Check {
	return queue.Check{MonitorURLs: f.NATSMonitorURL, AllowUnsafe: f.AllowUnsafe}
}

func (f serverFlags) streamOptions() queue.StreamOptions {
	return queue.StreamOptions{MaxBytes: f.QueueMaxBytes, Replicas: f.QueueReplicas}
}

func (f serverFlags) storeOptions(conns int) sink.Options {
	return sink.Options{URL: f.PostgresURL, MaxConns: conns, RefuseUnsafe: !f.AllowUnsafe, NeedSchema: true}
}

// parts are what a front and a worker both need.
type parts struct {
	metrics *prometheus.Registry
	store   *sink.Store
	nats    *nats.Conn
	redis   redis.UniversalClient
	seen    *dedupe.SeenSet // nil without Redis
}

// limitHeap has the garbage collector work harder where the heap would grow
// beyond what a process may hold, and some room: by default it may grow to twice
// what is in use.
func limitHeap(held int64) {
	const room = 48 << 20
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(held + room)
	}
}

// connect opens the parts. The servers themselves need not be there yet.
func connect(ctx context.Context, f serverFlags, name string, conns int, logger *zap.Logger) (p parts, err error) {
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	p.metrics = admin.NewRegistry()
	if p.store, err = sink.Open(ctx, f.storeOptions(conns)); err != nil {
		return p, err
	}
	if p.nats, err = queue.Connect(f.NATSURL, name, logger); err != nil {
		return p, err
	}
	if f.RedisURL == "" {
		return p, nil
	}
	if p.redis, err = dedupe.NewClient(f.RedisURL); err != nil {
		return p, err
	}
	p.seen, err = dedupe.NewSeenSet(p.redis, dedupe.SeenSetOptions{Timeline: p.store, Logger: logger,
		Registerer: p.metrics})
	return p, err
}

// addressError says which flag names an address that can't be listened to.
func addressError(flag string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s: %w: choose another address, or stop the program that has this one", flag, err)
	}
	return fmt.Errorf("%s: %w", flag, err)
}

func (p *parts) close() {
	if p.nats != nil {
		p.nats.Close()
	}
	if p.redis != nil {
		p.redis.Close()
	}
	if p.store != nil {
		p.store.Close()
	}
}
