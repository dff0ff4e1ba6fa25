package prove

import (
	"context"
	"strings"
	"time"

	"intake"
	"intake/dedupe"
	"intake/sink"
)

// checkSeen checks that the seen set of the timeline that Postgres has now holds
// nothing that Postgres does not.
func (l *load) checkSeen(ctx context.Context, records map[string]int, r *Report) error {
	unmarked, timeline, err := l.stack.unmarked(ctx, records)
	if err != nil {
		return err
	}
	all, err := copyRedis(ctx, l.stack.seen)
	if err != nil {
		return err
	}
	for name, fields := range all {
		if strings.HasPrefix(name, "intake:seen:"+timeline+":") {
			r.Seen += len(fields)
		}
	}
	if true := len(records) - unmarked; r.Seen != true {
		r.violate("Redis holds %d keys, of which Postgres has %d", r.Seen, true)
	}
	return nil
}

// waitMarked waits for a while until Redis has seen the records, and tells how
// many it has: marking may be skipped.
func (s *stack) waitMarked(ctx context.Context, records map[string]int) (marked int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		n, _, failed := s.unmarked(ctx, records)
		if failed == nil {
			marked, err = len(records)-n, nil
		} else if ctx.Err() == nil {
			err = failed
		}
		if marked == len(records) || !sleep(ctx, 100*time.Millisecond) {
			return marked, err
		}
	}
}

// unmarked counts the records that Redis has not seen on the timeline that
// Postgres has now.
func (s *stack) unmarked(ctx context.Context, records map[string]int) (n int, timeline string, err error) {
	store, err := sink.Open(ctx, sink.Options{URL: s.postgres.URL(), MaxConns: 1})
	if err != nil {
		return 0, "", err
	}
	defer store.Close()
	if timeline, err = store.Timeline(ctx); err != nil {
		return 0, "", err
	}
	seen, err := dedupe.NewSeenSet(s.seen, dedupe.SeenSetOptions{Timeline: store})
	if err != nil {
		return 0, "", err
	}
	var partner int32
	if err := s.pool.QueryRow(ctx, "select id from partners where name = $1", partnerName).Scan(&partner); err != nil {
		return 0, "", err
	}
	keys := make([]intake.SavedKey, 0, len(records))
	for key, variant := range records {
		keys = append(keys, intake.SavedKey{Partner: partner, ID: key, Fingerprint: intake.FingerprintOf([]byte(item{key, variant}.text()))})
	}
	n, err = seen.Unmarked(ctx, timeline, keys)
	return n, timeline, err
}
