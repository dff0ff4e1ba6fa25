package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"intake/sink"
	"intake/worker"
)

type recoverCommand struct {
	PostgresURL string    `name:"postgres-url" required:"" help:"The data store that was restored: postgres://user:password@host/database."`
	NATSURL     string    `name:"nats-url" required:"" help:"The queue, whose log has what was lost: nats://user:password@host, several separated by commas for a cluster."`
	Since       time.Time `required:"" help:"Look at what was queued since then, as in 2026-01-31T23:00:00Z: somewhat before the moment to which Postgres was restored."`
	JSON        bool      `name:"json" help:"Print JSON, for programs."`
}

func (c recoverCommand) Run(ctx context.Context, out output) error {
	store, err := sink.Open(ctx, sink.Options{URL: c.PostgresURL, MaxConns: 2})
	if err != nil {
		return err
	}
	defer store.Close()
	partners, err := store.Partners(ctx)
	if err != nil {
		return fmt.Errorf("%w (has intake migrate run?)", err)
	}
	names := make(map[int32]string, len(partners))
	for i := range partners {
		names[partners[i].ID] = partners[i].Name
	}
	nc, err := connectQueue(ctx, c.NATSURL, "intake recover")
	if err != nil {
		return err
	}
	defer nc.Close()
	step, stop := showSteps("messages", 0)
	defer stop()
	shown := uint64(0)
	recovered, err := worker.Recover(ctx, nc, worker.RecoverOptions{
		Store: store, Partners: names, Since: c.Since,
		Progress: func(done, _ uint64) {
			step(int64(done - shown))
			shown = done
		},
	})
	stop()
	if recovered != nil {
		c.print(out, recovered)
	}
	if err != nil {
		return fmt.Errorf("%w; what is saved stays saved, run this again", err)
	}
	if len(recovered.Failed) > 0 {
		return exitStatus(1)
	}
	return nil
}

func (c recoverCommand) print(out output, r *worker.Recovered) {
	if c.JSON {
		_ = json.NewEncoder(out).Encode(r)
		return
	}
	if r.LogBegins.After(c.Since) {
		fmt.Fprintf(out, "the log begins at %s: what was queued before is not in it\n", r.LogBegins.UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(out, "found %d messages with %d items; %d parts of batches were missing\n", r.Messages, r.Items, r.MissingChunks)
	fmt.Fprintf(out, "saved %d records, and %d Idempotency-Keys\n", r.Saved, r.Keys)
	for _, code := range slices.Sorted(maps.Keys(r.NotSaved)) {
		fmt.Fprintf(out, "not saved: %d items, %s\n", r.NotSaved[code], code)
	}
	for _, failed := range r.Failed {
		fmt.Fprintf(out, "could not recover: %s\n", failed)
	}
}
