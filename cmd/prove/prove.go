package main

import (
	"context"
	"fmt"
	"intake/internal/sleep"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"
)

// Options of a run. Program and Dir are required.
type Options struct {
	Program  string        // the intake program
	Dir      string        // for the servers' data and all logs
	Duration time.Duration // of the load; 5 minutes when zero
	Seed     uint64        // of the schedule of faults, and of the load
	Cluster  bool          // of three NATS, three Redis and three workers, with a standby
	Standby  bool          // Postgres has a synchronous standby, which takes over
	// Failpoints says that Program was built with the tag failpoints. Then requests
	// are also paused between two steps.
	Failpoints bool
	Out        io.Writer // gets a line for each fault
}

// Run runs Intake under load and faults, and checks the answers. An error means that
// there is no verdict.
func Run(ctx context.Context, opts Options) (*Report, error) {
	if opts.Duration <= 0 {
		opts.Duration = 5 * time.Minute
	}
	s, err := startStack(ctx, opts)
	if err != nil {
		return nil, err
	}
	report := &Report{Seed: opts.Seed, Cluster: opts.Cluster, Standby: opts.Standby || opts.Cluster,
		Began: time.Now().UTC(), Seconds: opts.Duration.Seconds(), Faults: make(map[string]int)}
	defer func() {
		s.stop()
		if report.Holds() || ctx.Err() != nil {
			s.removePostgres()
		}
	}()
	l, err := newLoad(s, opts.Seed)
	if err != nil {
		return nil, err
	}
	s.torment(ctx, opts, report, l)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, p := range s.parts {
		if err := p.crashed(); err != nil {
			report.violate("%v: see %s", err, opts.Dir)
			if err := p.begin(); err != nil {
				return nil, err
			}
		}
	}
	if err := s.waitReady(ctx); err != nil {
		report.violate("a minute after all faults: %v", err)
	} else {
		auditing, cancel := context.WithTimeout(ctx, 5*time.Minute+opts.Duration)
		defer cancel()
		l.audit(auditing, report)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !report.Holds() {
		return report, l.keepEvidence(filepath.Join(opts.Dir, "batches.json"))
	}
	return report, nil
}

// torment sends the load and makes faults. It ends the load 5 s after the last fault is
// undone.
func (s *stack) torment(ctx context.Context, opts Options, report *Report, l *load) {
	loading, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	var clients sync.WaitGroup
	for n := range loadClients {
		clients.Go(func() { l.run(loading, n) })
	}
	clients.Go(func() { l.runPieces(loading) })
	clients.Go(func() { l.watch(loading) })
	watching, stopWatching := context.WithCancel(loading)
	defer stopWatching()
	clients.Go(func() { l.watchPieces(watching) })
	nemesis := newNemesis(s, report, opts.Out)
	tormenting, heal := context.WithTimeout(ctx, opts.Duration)
	defer heal()
	var nemeses sync.WaitGroup
	processes := [][]fault{nemesis.processFaults(), nemesis.processFaults()}
	if opts.Failpoints {
		processes = append(processes, nemesis.takeoverFaults())
	}
	if s.standby != nil {
		processes = append(processes, nemesis.standbyFaults())
	}
	// Two run concurrently: one for processes, one for connections and servers.
	for n, groups := range [][][]fault{
		processes,
		{nemesis.linksFaults(), nemesis.linksFaults(), nemesis.redisFaults(), nemesis.serverFaults()},
	} {
		nemeses.Go(func() { nemesis.run(tormenting, rand.New(rand.NewPCG(opts.Seed, uint64(n))), groups...) })
	}
	nemeses.Wait()
	fmt.Fprintln(opts.Out, "all faults are undone; the load goes on for 5 s")
	sleep.For(ctx, 5*time.Second)
	l.end()
	stopWatching()
	// A batch with an Idempotency-Key is sent until it is answered.
	patience := time.AfterFunc(time.Minute, func() {
		l.complain("the load does not end within a minute after all faults")
		stopLoad()
	})
	defer patience.Stop()
	clients.Wait()
}
