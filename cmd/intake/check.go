package main

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"intake/dedupe"
	"intake/internal/safety"
)

// check looks at each server's settings once it is reached. It returns a
// *safety.Breach, unless such are allowed; else nil, when all are checked or ctx
// ends. NATS is the queue's and the worker's to check.
func (p *parts) check(ctx context.Context, allowUnsafe bool, logger *zap.Logger) error {
	if err := untilKnown(ctx, p.store.CheckSettings, allowUnsafe, logger); err != nil {
		return err
	}
	if err := untilKnown(ctx, p.store.CheckSchema, allowUnsafe, logger); err != nil {
		return err
	}
	if p.redis == nil {
		return nil
	}
	return untilKnown(ctx, func(ctx context.Context) error {
		warnings, err := dedupe.CheckServers(ctx, p.redis)
		for _, warning := range warnings {
			logger.Warn(warning)
		}
		return err
	}, allowUnsafe, logger)
}

// untilKnown repeats a check until it tells something: until then the server is
// away, or has no schema yet.
func untilKnown(ctx context.Context, check func(context.Context) error, allowUnsafe bool, logger *zap.Logger) error {
	said := ""
	for {
		asking, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := check(asking)
		cancel()
		var breach *safety.Breach
		switch {
		case err == nil || ctx.Err() != nil:
			return nil
		case errors.As(err, &breach) && !allowUnsafe:
			return breach
		case errors.As(err, &breach):
			logger.Warn("going on as --allow-unsafe says", zap.Error(breach))
			return nil
		}
		if err.Error() != said { // not again and again
			said = err.Error()
			logger.Warn("cannot check the servers yet, trying again", zap.Error(err))
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}
