package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"intake/internal/scrape"
	"intake/internal/sleep"
)

// restoreTime is how long a restore takes at least. A front caches the timeline of
// Postgres for three seconds.
const restoreTime = 4 * time.Second

// restore puts Postgres back to a backup. Keys that Redis has seen and Postgres has
// lost must be Completed when they are sent again, not Duplicates. All other records
// must be unchanged.
func (l *load) restore(ctx context.Context, r *Report, before map[string]record) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	s := l.stack
	if err := s.endStandby(ctx); err != nil {
		return err
	}
	s.postgres.Kill()
	backup := filepath.Join(s.opts.Dir, "postgres.backup")
	if err := s.postgres.Backup(backup); err != nil {
		return err
	}
	defer os.RemoveAll(backup)
	if err := s.startPostgres(ctx); err != nil {
		return err
	}
	batches, lost := make([]*batch, 20), make(map[string]int)
	for n := range batches {
		items := make([]item, 1+n%5)
		for i := range items {
			items[i] = item{key: fmt.Sprintf("lost-%d-%d", n, i), variant: 1}
			lost[items[i].key] = 1
		}
		batches[n] = l.newBatch(items)
		if err := l.mustSave(ctx, r, batches[n], "new"); err != nil {
			return err
		}
	}
	var err error
	if r.Stale, err = s.waitMarked(ctx, lost); err != nil {
		return err
	}
	s.postgres.Kill()
	if err := s.postgres.Restore(backup); err != nil {
		return err
	}
	if !sleep.For(ctx, restoreTime) {
		return ctx.Err()
	}
	if err := s.startPostgres(ctx); err != nil {
		return err
	}
	if err := l.waitAsked(ctx, r, lost); err != nil {
		return err
	}
	for _, b := range batches {
		if err := l.mustSave(ctx, r, b, "lost, as Postgres was put back to before it was saved"); err != nil {
			return err
		}
		r.Restored += len(b.items)
	}
	after, err := l.records(ctx, r)
	if err != nil {
		return err
	}
	for key, was := range before {
		if after[key] != was {
			r.violate("%s was %+v before Postgres was put back, and is %+v", key, was, after[key])
		}
	}
	for key, is := range after {
		if before[key] != is && lost[key] != is.variant {
			r.violate("%s has a record with data %d since Postgres was put back", key, is.variant)
		}
	}
	return nil
}

// waitAsked sends new items, whose keys it adds to lost, until a front asks the seen set for them.
// Before that, no answer shows whether the front would ask for what an earlier timeline has marked.
func (l *load) waitAsked(ctx context.Context, r *Report, lost map[string]int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	before, err := l.stack.asked(ctx)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		b := l.newBatch([]item{{key: fmt.Sprintf("asked-%d", n), variant: 1}})
		lost[b.items[0].key] = 1
		if err := l.mustSave(ctx, r, b, "new"); err != nil {
			return err
		}
		switch now, err := l.stack.asked(ctx); {
		case err != nil:
			return err
		case now > before:
			return nil
		case !sleep.For(ctx, 100*time.Millisecond):
			return errors.New("the front has not asked the seen set for a minute since Postgres was put back")
		}
	}
}

// asked returns how many batches the first front has asked the seen set for, and got an answer.
func (s *stack) asked(ctx context.Context) (n float64, err error) {
	families, err := scrape.Metrics(ctx, strings.TrimSuffix(s.part("front-1").ready, "/readyz")+"/metrics")
	if err != nil {
		return 0, err
	}
	for _, metric := range families["intake_dedupe_asks_total"].GetMetric() {
		if metric.Label[0].GetValue() == "answered" {
			n = metric.Counter.GetValue()
		}
	}
	return n, nil
}

func (s *stack) startPostgres(ctx context.Context) error {
	if err := s.postgres.Start(ctx); err != nil {
		return err
	}
	return s.waitReady(ctx)
}

// mustSave sends a batch until it is answered. Its items must be Completed, or be
// Duplicates of the same data if an earlier try got no answer.
func (l *load) mustSave(ctx context.Context, r *Report, b *batch, what string) error {
	kept := l.countBatches()
	_, text, err := l.postUntilAnswered(ctx, l.stack.direct[0], b)
	if err != nil {
		return err
	}
	unsure := l.countBatches() > kept
	l.read(b, text)
	if b.pending {
		if err := l.waitFinal(ctx, 0, b); err != nil {
			return err
		}
	}
	for i, e := range b.ends {
		if e != saved && !(unsure && e == same) {
			r.violate("%s is %s, and was %s", b.items[i].key, e, what)
		}
	}
	return nil
}

func (l *load) countBatches() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.batches)
}
