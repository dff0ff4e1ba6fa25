package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go/jetstream"

	"intake/internal/sleep"
	"intake/worker/queue"
)

// A fault is something bad that can be done and undone.
type fault struct {
	kind     string
	where    string
	atMost   time.Duration // that it lasts
	do       func(context.Context) error
	undo     func(context.Context) error // nil if it ends by itself
	promised bool                        // do succeeds unless there is a bug
}

// A nemesis makes faults.
type nemesis struct {
	stack *stack
	out   io.Writer
	start time.Time

	mu       sync.Mutex
	report   *Report
	underWay []time.Duration // when faults began that have not ended
	lines    []faultLine     // not printed, as one that began earlier has not ended
}

// A faultLine is what is printed of a fault.
type faultLine struct {
	began time.Duration
	text  string
}

func newNemesis(s *stack, report *Report, out io.Writer) *nemesis {
	return &nemesis{stack: s, report: report, out: out, start: time.Now()}
}

// run makes one fault after the other until ctx ends, and undoes each. All groups
// are equally likely.
func (n *nemesis) run(ctx context.Context, random *rand.Rand, groups ...[]fault) {
	for {
		pause := time.Duration(200+random.IntN(1_800)) * time.Millisecond
		faults := groups[random.IntN(len(groups))]
		f := faults[random.IntN(len(faults))]
		lasts := time.Duration(float64(f.atMost) * (0.1 + 0.9*random.Float64()))
		if !sleep.For(ctx, pause) {
			return
		}
		began := time.Since(n.start)
		n.began(began)
		doing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		failed := within(doing, f.do)
		cancel()
		var left error
		if f.undo != nil {
			sleep.For(ctx, lasts)
			left = undo(context.WithoutCancel(ctx), f)
		}
		n.note(f, began, time.Since(n.start), failed, left)
	}
}

// undo tries to undo a fault for up to 90 s.
func undo(ctx context.Context, f fault) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	for {
		err := within(ctx, f.undo)
		if err == nil || !sleep.For(ctx, 200*time.Millisecond) {
			return err
		}
	}
}

// within calls do, and returns when ctx ends: some of what do calls ignores ctx.
func within(ctx context.Context, do func(context.Context) error) error {
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// began notes when a fault begins.
func (n *nemesis) began(at time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.underWay = append(n.underWay, at)
}

// print prints the lines of faults that have ended, in the order in which the
// faults began. The caller holds mu.
func (n *nemesis) print(line faultLine) {
	n.underWay = slices.DeleteFunc(n.underWay, func(at time.Duration) bool { return at == line.began })
	n.lines = append(n.lines, line)
	slices.SortFunc(n.lines, func(a, b faultLine) int { return cmp.Compare(a.began, b.began) })
	for len(n.lines) > 0 && (len(n.underWay) == 0 || n.lines[0].began < slices.Min(n.underWay)) {
		fmt.Fprintln(n.out, n.lines[0].text)
		n.lines = n.lines[1:]
	}
}

// note records a fault. failed is why it could not be made, and left why it could not
// be undone.
func (n *nemesis) note(f fault, began, ended time.Duration, failed, left error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	note := ""
	switch {
	case left != nil:
		n.report.violate("%s %s could not be undone: %v", f.kind, f.where, left)
	case f.promised && failed != nil:
		n.report.violate("%v", failed)
	}
	if err := errors.Join(failed, left); err != nil {
		note = ": " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	text := fmt.Sprintf("%6.1f s  %-8s %s, for %.1f s%s", began.Seconds(), f.kind, f.where, (ended - began).Seconds(),
		note)
	n.print(faultLine{began, text})
	if failed != nil {
		n.report.Failed++
		return
	}
	n.report.Faults[f.kind]++
	n.report.Timeline = append(n.report.Timeline, faultSpan{f.kind, f.where, began.Seconds(), ended.Seconds()})
}

// processFaults kill and stop processes.
func (n *nemesis) processFaults() (faults []fault) {
	s := n.stack
	for _, p := range s.parts {
		begin := func(context.Context) error { return p.begin() }
		signal := func(signal syscall.Signal) func(context.Context) error {
			return func(context.Context) error { return p.running().Signal(signal) }
		}
		faults = append(faults,
			fault{"kill", p.name, 2 * time.Second, func(context.Context) error { return p.kill() }, begin, true},
			fault{"stop", p.name, 3 * ackWait, signal(syscall.SIGSTOP), signal(syscall.SIGCONT), true},
			fault{"restart", p.name, time.Second, p.end, begin, true})
	}
	servers := map[string]server{"postgres": primary{s}}
	for i, node := range s.redis {
		servers[fmt.Sprintf("redis-%d", i+1)] = node
	}
	for _, name := range slices.Sorted(maps.Keys(servers)) { // in a fixed order, so that a seed repeats a run
		other := servers[name]
		faults = append(faults,
			fault{"kill", name, 2 * time.Second, func(context.Context) error { other.Kill(); return nil }, other.Start,
				true},
			fault{"stop", name, 3 * ackWait,
				func(context.Context) error { other.Signal(syscall.SIGSTOP); return nil },
				func(context.Context) error { other.Signal(syscall.SIGCONT); return nil }, true})
	}
	return faults
}

// A server is Postgres or Redis.
type server interface {
	Kill()
	Signal(syscall.Signal)
	Start(context.Context) error
}

// linksFaults are done to the connections between processes.
func (n *nemesis) linksFaults() (faults []fault) {
	for _, l := range n.stack.links {
		faults = append(faults, n.linkFaults(l)...)
	}
	return faults
}

func (n *nemesis) linkFaults(l *link) []fault {
	toxic := func(json string) (do, undo func(context.Context) error) {
		return func(context.Context) error {
				_, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(json))
				return err
			}, func(ctx context.Context) error {
				l.proxy.Toxics.ResetToxics(ctx)
				return nil
			}
	}
	slow, fast := toxic(`{"name":"slow","type":"latency","attributes":{"latency":200,"jitter":200}}`)
	deaf, heard := toxic(`{"name":"deaf","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`)
	mute, spoken := toxic(`{"name":"mute","type":"timeout","stream":"upstream","attributes":{"timeout":0}}`)
	torn, whole := toxic(`{"name":"torn","type":"limit_data","stream":"downstream","attributes":{"bytes":2000}}`)
	tornUp, wholeUp := toxic(`{"name":"torn","type":"limit_data","stream":"upstream","attributes":{"bytes":3000}}`)
	reset, quiet := toxic(`{"name":"reset","type":"reset_peer","attributes":{"timeout":50}}`)
	return []fault{
		{"cut", l.name, 5 * time.Second,
			func(context.Context) error { l.proxy.Stop(); return nil },
			func(context.Context) error { return l.proxy.Start() }, true},
		{"slow", l.name, 5 * time.Second, slow, fast, true},
		{"deaf", l.name, 8 * time.Second, deaf, heard, true},
		{"mute", l.name, 8 * time.Second, mute, spoken, true},
		{"tear", l.name, 4 * time.Second, torn, whole, true},
		{"tear", l.name, 4 * time.Second, tornUp, wholeUp, true},
		{"reset", l.name, 2 * time.Second, reset, quiet, true},
	}
}

// serverFaults are what Postgres and NATS may do to their clients.
func (n *nemesis) serverFaults() []fault {
	s := n.stack
	query := func(sql string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := s.pool.Exec(ctx, sql)
			return err
		}
	}
	const others = " from pg_stat_activity where application_name = 'intake' and pid <> pg_backend_pid()"
	const settings = "select pg_reload_conf()"
	both := func(first, second string) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := query(first)(ctx); err != nil {
				return err
			}
			return query(second)(ctx)
		}
	}
	faults := []fault{
		{"postgres", "cancelling statements", 0, query("select pg_cancel_backend(pid)" + others), nil, false},
		{"postgres", "ending sessions", 0, query("select pg_terminate_backend(pid)" + others), nil, false},
		{"postgres", "read-only", 4 * time.Second,
			both("alter system set default_transaction_read_only = on", settings),
			both("alter system reset default_transaction_read_only", settings), false},
		{"postgres", "refusing connections", 4 * time.Second,
			func(ctx context.Context) error {
				if err := s.elsewhere(ctx, "alter database postgres allow_connections false"); err != nil {
					return err
				}
				return s.elsewhere(ctx, "select pg_terminate_backend(pid)"+others)
			},
			func(ctx context.Context) error {
				return s.elsewhere(ctx, "alter database postgres allow_connections true")
			}, false},
		{"postgres", "deadlocked", 0, s.deadlock, nil, false},
		{"nats", "full", 4 * time.Second,
			func(ctx context.Context) error {
				return s.withStream(ctx, func(js jetstream.JetStream, stream jetstream.Stream) error {
					return limitStream(ctx, js, stream, int64(max(stream.CachedInfo().State.Bytes, 1)))
				})
			},
			func(ctx context.Context) error {
				return s.withStream(ctx, func(js jetstream.JetStream, stream jetstream.Stream) error {
					return limitStream(ctx, js, stream, queueBytes)
				})
			}, false},
	}
	// The consumers of batches that clients wait for, and of the first partner.
	for _, consumer := range []string{"worker-waiting", "worker-later-1"} {
		faults = append(faults, fault{"nats", "without " + consumer, 0, func(ctx context.Context) error {
			return s.withStream(ctx, func(_ jetstream.JetStream, stream jetstream.Stream) error {
				return stream.DeleteConsumer(ctx, consumer)
			})
		}, nil, false})
	}
	return faults
}

// limitStream sets the size of the log.
func limitStream(ctx context.Context, js jetstream.JetStream, stream jetstream.Stream, bytes int64) error {
	config := stream.CachedInfo().Config
	config.MaxBytes = bytes
	_, err := js.UpdateStream(ctx, config)
	return err
}

// elsewhere runs a statement in another database than Intake's.
func (s *stack) elsewhere(ctx context.Context, sql string) error {
	config, err := pgx.ParseConfig(s.postgresURL)
	if err != nil {
		return err
	}
	config.Database = "template1"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql)
	return err
}

// deadlock takes the locks of the workers' transactions in another order, so that
// Postgres ends one of the transactions, or this one.
func (s *stack) deadlock(ctx context.Context) error {
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, "lock table batch_status in exclusive mode"); err != nil {
		return err
	}
	if !sleep.For(ctx, 200*time.Millisecond) { // until workers wait for it
		return ctx.Err()
	}
	_, err = tx.Exec(ctx, "lock table partner_clients in exclusive mode")
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == pgerrcodeDeadlock {
		return nil
	}
	return err
}

const pgerrcodeDeadlock = "40P01"

// withStream calls do with the log, over a connection without faults.
func (s *stack) withStream(ctx context.Context, do func(jetstream.JetStream, jetstream.Stream) error) error {
	nc, err := queue.Connect(s.natsURL, "intake prove", nil)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	stream, err := js.Stream(ctx, queue.StreamName)
	if err != nil {
		return err
	}
	return do(js, stream)
}
