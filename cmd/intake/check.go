package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"intake/dedupe"
	"intake/internal/safety"
	"intake/internal/sleep"
	"intake/sink"
)

// check looks at the settings of Postgres, now and again until ctx ends, and at
// those of Redis once it is reached. It returns safety.Breaches, unless such are
// allowed; else nil. NATS is the queue's and the worker's to check.
func (p *parts) check(ctx context.Context, allowUnsafe bool, logger *zap.Logger) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.watchPostgres(ctx, allowUnsafe, logger) })
	if p.redis != nil {
		group.Go(func() error { p.checkRedis(ctx, logger); return nil })
	}
	return group.Wait()
}

// withAllBreaches completes the breaches that have ended a process, if such have:
// the first one that was found is one of one server, and who mends it should not
// have to start again to learn of the next.
func (p *parts) withAllBreaches(err error, flags serverFlags) error {
	first, _ := safety.Find(err)
	if len(first) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var postgres, nats error
	var asking sync.WaitGroup
	asking.Go(func() { postgres = p.store.Check(ctx) })
	asking.Go(func() { nats = flags.check().Once(ctx, p.nats, flags.streamOptions()) })
	asking.Wait()
	all, _ := safety.Find(errors.Join(first, postgres, nats))
	return all
}

// How often the servers' settings are checked.
const (
	checkAgain            = 500 * time.Millisecond // a server that could not be checked yet
	postgresCheckInterval = 2 * time.Second        // Postgres, once it was checked
	askRedisAgain         = time.Minute            // a Redis that refuses to show its settings
	checkTimeout          = 10 * time.Second       // bounds each check
)

// watchPostgres checks Postgres repeatedly: it may be restarted with other
// settings, or change them while it runs.
func (p *parts) watchPostgres(ctx context.Context, allowUnsafe bool, logger *zap.Logger) error {
	passed, waits, said := false, false, ""
	for {
		asking, cancel := context.WithTimeout(ctx, checkTimeout)
		err := p.store.Check(asking)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		breaches, others := safety.Find(err)
		if len(breaches) > 0 && !allowUnsafe {
			return breaches
		}
		away := errors.Is(others, sink.ErrStandbyAway)
		passed = passed || others == nil || away
		switch {
		case away && !waits:
			logger.Warn(sink.ErrStandbyAway.Error())
		case waits && others == nil:
			logger.Info("the standby of Postgres has all that was committed")
		}
		waits = away || waits && others != nil
		wait := postgresCheckInterval
		if !passed {
			wait = checkAgain
		}
		if text := textOf(err); text != said { // not again and again
			said = text
			for _, breach := range breaches {
				logger.Warn("going on as --allow-unsafe says", zap.Error(breach))
			}
			if !passed {
				logger.Warn("cannot check Postgres yet, trying again", zap.Error(others))
			}
		}
		if !sleep.For(ctx, wait) {
			return nil
		}
	}
}

// checkRedis warns of what does harm in Redis.
func (p *parts) checkRedis(ctx context.Context, logger *zap.Logger) {
	said := ""
	for {
		asking, cancel := context.WithTimeout(ctx, checkTimeout)
		warnings, err := dedupe.CheckServers(asking, p.redis)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if text := strings.Join(append(warnings, textOf(err)), "\n"); text != said { // not again and again
			said = text
			for _, warning := range warnings {
				logger.Warn(warning)
			}
			if err != nil {
				logger.Warn("cannot check Redis yet, trying again", zap.Error(err))
			}
		}
		if err == nil {
			return
		}
		if !sleep.For(ctx, pauseAfter(err)) {
			return
		}
	}
}

// pauseAfter is how long a Redis is left in peace: one that answers, but not this,
// will hardly do so in a moment.
func pauseAfter(err error) time.Duration {
	var refusal redis.Error
	if errors.As(err, &refusal) {
		return askRedisAgain
	}
	return checkAgain
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
