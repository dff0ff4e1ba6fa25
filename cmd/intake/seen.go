package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"intake"
	"intake/dedupe"
	"intake/sink"
)

type seenCommand struct {
	Rebuild seenRebuildCommand `cmd:"" help:"Fill the seen set in Redis from Postgres, and verify it. This is optional: the set fills as batches are saved, and an empty one costs speed only."`
}

type seenRebuildCommand struct {
	PostgresURL string `name:"postgres-url" required:"" help:"The data store: postgres://user:password@host/database."`
	RedisURL    string `name:"redis-url" required:"" help:"The seen set: redis://:password@host, several separated by commas for Redis Cluster."`
	Rate        int    `env:"-" default:"50000" help:"Most keys a second, which bounds the load on Postgres and Redis."`
}

// seenPage is how many keys are read and marked in one round trip.
const seenPage = 5_000

func (c seenRebuildCommand) Run(ctx context.Context, out output) error {
	if c.Rate <= 0 {
		return fmt.Errorf("--rate %d: it must be positive", c.Rate)
	}
	store, err := sink.Open(ctx, sink.Options{URL: c.PostgresURL, MaxConns: 1})
	if err != nil {
		return err
	}
	defer store.Close()
	client, err := dedupe.NewClient(c.RedisURL)
	if err != nil {
		return err
	}
	defer client.Close()
	seen, err := dedupe.NewSeenSet(client, dedupe.SeenSetOptions{Timeline: store})
	if err != nil {
		return err
	}
	total, err := store.EstimateRecords(ctx)
	if err != nil {
		return hintSchema(fmt.Errorf("count the records in Postgres: %w", err))
	}
	limit := rate.NewLimiter(rate.Limit(c.Rate), max(c.Rate, seenPage))
	step, stop := showSteps("keys marked or verified", 2*total)
	defer stop()
	walk := keyWalk{store: store, limit: limit, step: step}
	marked, err := walk.all(ctx, func(ctx context.Context, timeline string, keys []intake.SavedKey) error {
		return seen.Mark(ctx, timeline, keys)
	})
	if err != nil {
		return err
	}
	lost := 0
	verified, err := walk.all(ctx, func(ctx context.Context, timeline string, keys []intake.SavedKey) error {
		n, err := seen.Unmarked(ctx, timeline, keys)
		lost += n
		return err
	})
	if err != nil {
		return err
	}
	stop()
	if _, err := fmt.Fprintf(out, "%d keys marked, %d verified, %d missing\n", marked, verified, lost); err != nil {
		return err
	}
	if lost > 0 {
		return fmt.Errorf("redis has lost %d of the keys: "+
			"give it more memory (maxmemory), and look whether keys are evicted", lost)
	}
	return nil
}

// A keyWalk iterates over all saved keys.
type keyWalk struct {
	store *sink.Store
	limit interface {
		WaitN(context.Context, int) error
	}
	step     func(n int64)
	timeline string // of the first page
}

// all calls each with all keys, a page at a time, and returns their number. The
// workers mark the keys that are saved in the meantime.
func (w *keyWalk) all(ctx context.Context, each func(context.Context, string, []intake.SavedKey) error) (n int,
	err error) {
	var last intake.SavedKey
	for {
		if err := w.limit.WaitN(ctx, seenPage); err != nil {
			return n, err
		}
		try, cancel := context.WithTimeout(ctx, time.Minute)
		keys, timeline, err := w.store.KeysAfter(try, last, seenPage)
		if err == nil && w.timeline != "" && timeline != w.timeline {
			err = errors.New("it was restarted or restored in the meantime, run this again")
		}
		if err != nil {
			cancel()
			return n, fmt.Errorf("read the keys in Postgres: %w", err)
		}
		w.timeline = timeline
		if len(keys) > 0 {
			err = each(try, timeline, keys)
		}
		cancel()
		if err != nil {
			return n, err
		}
		n += len(keys)
		w.step(int64(len(keys)))
		if len(keys) < seenPage {
			return n, nil
		}
		last = keys[len(keys)-1]
	}
}
