package main

import (
	"context"
	"errors"
	"net"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"intake/cmd/intake/internal/admin"
	"intake/internal/safety"
	"intake/worker"
)

type workerCommand struct {
	serverFlags
	AdminListen     string        `default:"127.0.0.1:9091" help:"Address of /livez, /readyz, /metrics and /debug/pprof/."`
	Savers          int           `default:"2" help:"Transactions that run at once."`
	AckWait         time.Duration `default:"10s" help:"How long the queue waits for a sign of life before another worker gets a message."`
	QueueKeep       time.Duration `default:"24h" help:"How long the queue's log keeps batches that are processed; less, when half of its room is needed."`
	ShutdownTimeout time.Duration `default:"10s" help:"How long the last transactions may take at shutdown."`
}

func (c workerCommand) Run(ctx context.Context, logger *zap.Logger) error {
	limitHeap(worker.MaxMemory)
	process, err := newWorkerProcess(ctx, c, logger.Named("worker"))
	if err != nil {
		return err
	}
	return process.Run(ctx)
}

// A workerProcess is a worker with all that it needs.
type workerProcess struct {
	config workerCommand
	logger *zap.Logger
	parts
	worker *worker.Worker
	admin  net.Listener
	health *admin.Handler
}

func newWorkerProcess(ctx context.Context, c workerCommand, logger *zap.Logger) (_ *workerProcess, err error) {
	p := &workerProcess{config: c, logger: logger}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.parts, err = connect(ctx, c.serverFlags, "intake worker", c.Savers+2, logger); err != nil {
		return nil, err
	}
	options := worker.Options{
		Store: p.store, Stream: c.streamOptions(), Savers: c.Savers, AckWait: c.AckWait, Keep: c.QueueKeep,
		ShutdownTimeout: c.ShutdownTimeout, Check: c.check(), Logger: logger, Registerer: p.metrics,
	}
	if p.seen != nil {
		options.Marker = p.seen
	}
	if p.worker, err = worker.New(p.nats, options); err != nil {
		return nil, err
	}
	p.health = admin.New(p.metrics, admin.Check{Name: "postgres", Check: p.store.Ping},
		admin.Check{Name: "queue", Check: p.worker.Ready})
	if p.admin, err = net.Listen("tcp", c.AdminListen); err != nil {
		return nil, addressError("--admin-listen", err)
	}
	return p, nil
}

// Run works until ctx ends, and then finishes what is under way. It ends with
// safety.Breaches if a server may lose what it has stored.
func (p *workerProcess) Run(ctx context.Context) error {
	defer p.close()
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, background := errgroup.WithContext(background)
	group.Go(func() error { return p.health.Serve(background, p.admin) })
	group.Go(func() error { p.tidyStatus(background); return nil })
	group.Go(func() error { return p.parts.check(background, p.config.AllowUnsafe, p.logger) })
	working, stopWorking := context.WithCancel(ctx)
	defer stopWorking()
	context.AfterFunc(background, stopWorking) // if one of them fails
	err := p.worker.Run(working)
	stop()
	if backgroundErr := group.Wait(); backgroundErr != nil {
		err = backgroundErr
	}
	return p.withAllBreaches(err, p.config.serverFlags)
}

// tidyStatus keeps the status of batches for as long as it should be kept.
func (p *workerProcess) tidyStatus(ctx context.Context) {
	for {
		wait := time.Hour
		try, cancel := context.WithTimeout(ctx, time.Minute)
		if err := p.store.TidyStatus(try); err != nil && ctx.Err() == nil {
			if breach := (*safety.Breach)(nil); !errors.As(err, &breach) { // which the check tells of
				p.logger.Warn("cannot tidy batch_status, trying again", zap.Error(err))
			}
			wait = time.Minute
		}
		cancel()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (p *workerProcess) close() {
	if p.admin != nil {
		p.admin.Close()
	}
	p.parts.close()
}
