package main

import (
	"context"
	"strings"
	"time"

	"intake"
	"intake/dedupe"
	"intake/internal/decode"
	"intake/internal/sleep"
	"intake/sink"
)

// checkSeen checks that the seen set holds no key that Postgres lacks: on the timeline
// that Postgres has now, and on those that it had before it was killed.
func (l *load) checkSeen(ctx context.Context, records map[string]record, r *Report) error {
	variants := make(map[string]int, len(records))
	for key, is := range records {
		variants[key] = is.variant
	}
	all, err := copyRedis(ctx, l.stack.seen)
	if err != nil {
		return err
	}
	marked := make(map[string]int) // by timeline
	for name, fields := range all {
		timeline, _, _ := strings.Cut(strings.TrimPrefix(name, seenPrefix), ":")
		marked[timeline] += len(fields)
	}
	for timeline, n := range marked {
		unmarked, err := l.stack.unmarked(ctx, timeline, variants)
		if err != nil {
			return err
		}
		if known := len(records) - unmarked; n != known {
			r.violate("Redis holds %d keys of timeline %s, of which Postgres has %d", n, timeline, known)
		}
		r.Seen += n
	}
	return nil
}

// waitMarked waits up to 5 s until the records are marked in Redis, and returns how many
// are: workers may skip the marking.
func (s *stack) waitMarked(ctx context.Context, records map[string]int) (marked int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		n, failed := s.unmarkedNow(ctx, records)
		if failed == nil {
			marked, err = len(records)-n, nil
		} else if ctx.Err() == nil {
			err = failed
		}
		if marked == len(records) || !sleep.For(ctx, 100*time.Millisecond) {
			return marked, err
		}
	}
}

// unmarkedNow counts the records that are not marked on the present timeline of
// Postgres.
func (s *stack) unmarkedNow(ctx context.Context, records map[string]int) (n int, err error) {
	store, err := sink.Open(ctx, sink.Options{URL: s.postgresURL, MaxConns: 1})
	if err != nil {
		return 0, err
	}
	defer store.Close()
	timeline, err := store.Timeline(ctx)
	if err != nil {
		return 0, err
	}
	return s.unmarked(ctx, timeline, records)
}

// unmarked counts the records that are not marked on a timeline.
func (s *stack) unmarked(ctx context.Context, timeline string, records map[string]int) (n int, err error) {
	seen, err := dedupe.NewSeenSet(s.seen, dedupe.SeenSetOptions{Timeline: fixed(timeline)})
	if err != nil {
		return 0, err
	}
	var partner int32
	if err := s.pool.QueryRow(ctx, "select id from partners where name = $1", partnerName).Scan(&partner); err != nil {
		return 0, err
	}
	keys := make([]intake.SavedKey, 0, len(records))
	for key, variant := range records {
		it := item{key: key, variant: variant}
		keys = append(keys, intake.SavedKey{Partner: partner, ID: key,
			Fingerprint: decode.Fingerprint([]byte(it.text()))})
	}
	return seen.Unmarked(ctx, timeline, keys)
}

// fixed is a timeline that doesn't change.
type fixed string

func (f fixed) Timeline(context.Context) (string, error) { return string(f), nil }
