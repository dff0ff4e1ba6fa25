package main

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"intake/dedupe"
)

// seenPrefix is how the names of the seen set's buckets begin, before the timeline.
const seenPrefix = "intake:seen:"

// redisFaults empty the seen set, put it back to an old state, or make it refuse writes.
func (n *nemesis) redisFaults() []fault {
	client := n.stack.seen
	each := func(do func(context.Context, *redis.Client) error) func(context.Context) error {
		return func(ctx context.Context) error { return dedupe.EachServer(ctx, client, do) }
	}
	empty := each(func(ctx context.Context, server *redis.Client) error { return server.FlushAll(ctx).Err() })
	memory := func(bytes string) func(context.Context) error {
		return each(func(ctx context.Context, server *redis.Client) error {
			return server.ConfigSet(ctx, "maxmemory", bytes).Err()
		})
	}
	var old map[string]map[string]string // by key
	return []fault{
		{"redis", "emptied", 0, empty, nil, false},
		{"redis", "copied", 0, func(ctx context.Context) (err error) {
			old, err = copyRedis(ctx, client)
			return err
		}, nil, false},
		{"redis", "put back to an old copy", 0, func(ctx context.Context) error {
			if old == nil {
				return errors.New("there is no copy yet")
			}
			if err := empty(ctx); err != nil {
				return err
			}
			pipeline := client.Pipeline()
			for key, fields := range old {
				pipeline.HSet(ctx, key, fields)
			}
			_, err := pipeline.Exec(ctx)
			return err
		}, nil, false},
		{"redis", "refusing writes", 5 * time.Second, memory("1"), memory("0"), false},
	}
}

// copyRedis returns a copy of the seen set.
func copyRedis(ctx context.Context, client redis.UniversalClient) (map[string]map[string]string, error) {
	var mu sync.Mutex
	all := make(map[string]map[string]string)
	err := dedupe.EachServer(ctx, client, func(ctx context.Context, server *redis.Client) error {
		own := make(map[string]map[string]string)
		keys := server.Scan(ctx, 0, seenPrefix+"*", 1_000).Iterator()
		for keys.Next(ctx) {
			fields, err := server.HGetAll(ctx, keys.Val()).Result()
			if err != nil {
				return err
			}
			if len(fields) > 0 {
				own[keys.Val()] = fields
			}
		}
		mu.Lock()
		defer mu.Unlock()
		maps.Copy(all, own)
		return keys.Err()
	})
	return all, err
}
