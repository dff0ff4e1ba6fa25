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
	slots := slotterOf(timeline)
	text := make([]byte, 0, len(keys)*(slots.size()+dataSize)+intake.MaxIDChars)
	for i := range keys {
		text = slots.appendSlot(text, keys[i].Partner, keys[i].ID)
		text = append(text, keys[i].Fingerprint[:]...)
	}
	args := commandsOf("hset", string(text), slots.nameSize, fieldSize, dataSize)
	pipeline := s.client.Pipeline()
	for i := range keys {
		_ = pipeline.Process(ctx, redis.NewIntCmd(ctx, args[4*i:4*i+4]...)) // it is only queued
	}
	return exec(ctx, pipeline)
}

// Unmarked returns the number of keys that are not in the set, or with other data, on a
// timeline. Unlike [SeenSet.Ask], it waits for Redis and may fail.
func (s *SeenSet) Unmarked(ctx context.Context, timeline string, keys []intake.SavedKey) (n int, err error) {
	slots := slotterOf(timeline)
	for some := range slices.Chunk(keys, keysPerMark) {
		var text []byte
		for i := range some {
			text = slots.appendSlot(text, some[i].Partner, some[i].ID)
		}
		q := newQuestion(ctx, slots, string(text))
		pipeline := s.client.Pipeline()
		q.put(ctx, pipeline)
		if err := exec(ctx, pipeline); err != nil {
			return 0, fmt.Errorf("look up %d keys: %w", len(some), err)
		}
		for i := range some {
			if q.seen(i, &some[i].Fingerprint) != SeenSame {
				n++
			}
		}
	}
	return n, nil
}
