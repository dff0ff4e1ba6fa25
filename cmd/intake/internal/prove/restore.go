package prove

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// restoreTime is what a restore takes at least: for three seconds a front believes
// that the Postgres it asked last is still there.
const restoreTime = 4 * time.Second

// restore puts Postgres back to what it was a while ago. Redis has seen keys that
// Postgres does not hold any more: sent again, they are Completed, not Duplicates.
func (l *load) restore(ctx context.Context, r *Report) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	s := l.stack
	s.postgres.Kill()
	backup := filepath.Join(s.opts.Dir, "postgres.backup")
	if err := s.postgres.Backup(backup); err != nil {
		return err
	}
	defer os.RemoveAll(backup)
	if err := s.startPostgres(ctx); err != nil {
		return err
	}
	batches, records := make([]*batch, 20), make(map[string]int)
	for n := range batches {
		items := make([]item, 1+n%5)
		for i := range items {
			items[i] = item{fmt.Sprintf("lost-%d-%d", n, i), 1}
			records[items[i].key] = 1
		}
		batches[n] = l.newBatch(items)
		if err := l.mustSave(ctx, r, batches[n], "new"); err != nil {
			return err
		}
	}
	var err error
	if r.Stale, err = s.waitMarked(ctx, records); err != nil {
		return err
	}
	s.postgres.Kill()
	if err := s.postgres.Restore(backup); err != nil {
		return err
	}
	if !sleep(ctx, restoreTime) {
		return ctx.Err()
	}
	if err := s.startPostgres(ctx); err != nil {
		return err
	}
	for _, b := range batches {
		if err := l.mustSave(ctx, r, b, "lost, as Postgres was put back to before it was saved"); err != nil {
			return err
		}
		r.Restored += len(b.items)
	}
	return nil
}

func (s *stack) startPostgres(ctx context.Context) error {
	if err := s.postgres.Start(ctx); err != nil {
		return err
	}
	return s.waitReady(ctx)
}

// mustSave sends a batch until it is answered. All of its items must be Completed
// then.
func (l *load) mustSave(ctx context.Context, r *Report, b *batch, what string) error {
	unsure := false // whether one that was not answered has saved it
	for try := 0; ; try++ {
		status, text, err := l.post(ctx, l.stack.direct[try%2], b, "wait=30")
		if err == nil && (status == http.StatusOK || status == http.StatusAccepted) {
			l.read(b, text)
			break
		}
		unsure = unsure || err != nil
		if !sleep(ctx, 200*time.Millisecond) {
			return fmt.Errorf("a batch is not saved: %d %.200s (%v)", status, text, err)
		}
	}
	if b.pending {
		var why string
		if b.ends, why = l.final(ctx, b); b.ends == nil {
			return fmt.Errorf("batch %s does not become final: %s", b.id, why)
		}
	}
	for i, e := range b.ends {
		if e != saved && !(unsure && e == same) {
			r.violate("%s is %s, and was %s", b.items[i].key, e, what)
		}
	}
	return nil
}
