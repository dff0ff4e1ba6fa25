package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"intake/sink"
	"intake/worker"
)

type recoverCommand struct {
	PostgresURL string `name:"postgres-url" required:"" help:"The data store that was restored: postgres://user:password@host/database."`
	NATSURL     string `name:"nats-url" required:"" help:"The queue, whose log has the lost batches: nats://user:password@host, several separated by commas for a cluster."`
	Since       moment `required:"" help:"Look at what was queued since then: somewhat before the moment to which Postgres was restored. As in 2h, 3d, 2026-01-31T23:00:00Z, or 2026-01-31 23:00 in UTC."`
	JSON        bool   `name:"json" env:"-" help:"Print JSON, for programs."`
}

func (c recoverCommand) Run(ctx context.Context, out output) error {
	store, err := sink.Open(ctx, sink.Options{URL: c.PostgresURL, MaxConns: 2})
	if err != nil {
		return err
	}
	defer store.Close()
	partners, err := store.Partners(ctx)
	if err != nil {
		return hintSchema(err)
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
		Store: store, Partners: names, Since: c.Since.Time,
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
		return fmt.Errorf("%w; what was recovered is saved, run this again for the rest", err)
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
	if r.LogBegins.After(c.Since.Time) {
		begins := r.LogBegins.UTC().Format(time.RFC3339)
		fmt.Fprintf(out, "the log begins at %s: what was queued before can't be recovered\n", begins)
	}
	fmt.Fprintf(out, "found %d messages with %d items; %d parts of batches were missing\n", r.Messages, r.Items,
		r.MissingChunks)
	fmt.Fprintf(out, "saved %d records, and %d Idempotency-Keys\n", r.Saved, r.Keys)
	for _, code := range slices.Sorted(maps.Keys(r.NotSaved)) {
		fmt.Fprintf(out, "not saved: %d items, %s\n", r.NotSaved[code], code)
	}
	for _, failed := range r.Failed {
		fmt.Fprintf(out, "could not recover: %s\n", failed)
	}
}

// A moment is a time on the command line, absolute or before now.
type moment struct{ time.Time }

// UnmarshalText parses a length of time before now, as in 90m, 2h or 3d, or a time.
func (m *moment) UnmarshalText(text []byte) (err error) {
	*m, err = parseMoment(string(text), time.Now())
	return err
}

func parseMoment(text string, now time.Time) (moment, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 {
			return moment{now.AddDate(0, 0, -n)}, nil
		}
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return moment{now.Add(-ago)}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return moment{t}, nil
		}
	}
	const form = "write it like 2h, 3d, 2026-01-31T23:00:00Z, or 2026-01-31 23:00 in UTC"
	return moment{}, fmt.Errorf("%q is no time: %s", text, form)
}
