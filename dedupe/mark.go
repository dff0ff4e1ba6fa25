package dedupe

import (
	"context"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"intake"
)

// keysPerMark bounds the keys of one pipeline, so that other clients of Redis do not wait
// long for it.
const keysPerMark = 5_000

// Mark adds keys that are committed on a timeline of the data store. It must not be called
// before the commit. A saved record never changes, so marking a key again is harmless.
func (s *SeenSet) Mark(ctx context.Context, timeline string, keys []intake.SavedKey) error {
	if s == nil || timeline == "" {
		return nil
	}
	for some := range slices.Chunk(keys, keysPerMark) {
		if err := s.mark(ctx, timeline, some); err != nil {
			return fmt.Errorf("mark %d keys as seen: %w", len(keys), err)
		}
	}
	return nil
}

func (s *SeenSet) mark(ctx context.Context, timeline string, keys []intake.SavedKey) error {
	pipeline := s.client.Pipeline()
	for i := range keys {
		at := slotOf(keys[i].ID, i)
		pipeline.HSet(ctx, keyOf(prefixOf(timeline, keys[i].Partner), at.bucket), string(at.field[:]), string(keys[i].Fingerprint[:]))
	}
	return exec(ctx, pipeline)
}

// Unmarked returns the number of keys that are not in the set, or with other data, on a
// timeline. Unlike [SeenSet.Ask], it waits for Redis and may fail.
func (s *SeenSet) Unmarked(ctx context.Context, timeline string, keys []intake.SavedKey) (n int, err error) {
	for some := range slices.Chunk(keys, keysPerMark) {
		pipeline := s.client.Pipeline()
		commands := make([]*redis.StringCmd, len(some))
		for i := range some {
			at := slotOf(some[i].ID, i)
			commands[i] = pipeline.HGet(ctx, keyOf(prefixOf(timeline, some[i].Partner), at.bucket), string(at.field[:]))
		}
		if err := exec(ctx, pipeline); err != nil {
			return 0, fmt.Errorf("look up %d keys: %w", len(some), err)
		}
		for i, command := range commands {
			if command.Val() != string(some[i].Fingerprint[:]) {
				n++
			}
		}
	}
	return n, nil
}
