package dedupe

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
	"golang.org/x/mod/semver"
)

// CheckServers returns warnings about harmful settings of Redis. None of them makes an
// answer wrong, but the seen set or the partners' limits may be lost. It fails if Redis
// does not answer.
func CheckServers(ctx context.Context, client redis.UniversalClient) (warnings []string, err error) {
	var mu sync.Mutex
	err = EachServer(ctx, client, func(ctx context.Context, server *redis.Client) error {
		// All sections: several can be requested from Redis 7 on only.
		info, err := server.Info(ctx).Result()
		if err != nil {
			return fmt.Errorf("read the settings of Redis: %w", err)
		}
		fields := fieldsOf(info)
		mu.Lock()
		defer mu.Unlock()
		for _, warning := range []string{checkVersion(fields["redis_version"]), checkEviction(fields)} {
			if warning != "" && !slices.Contains(warnings, warning) {
				warnings = append(warnings, warning)
			}
		}
		return nil
	})
	return warnings, err
}

// minVersion is the oldest version of Redis that the tests run on.
const minVersion = "7.0.0"

func checkVersion(version string) string {
	if version == "" || semver.Compare("v"+version, "v"+minVersion) >= 0 {
		return ""
	}
	return "the version of Redis is " + version + ": Intake was never tested with it; use Redis " + minVersion +
		" or newer"
}

func checkEviction(info map[string]string) string {
	policy := info["maxmemory_policy"]
	switch {
	case policy == "":
		return "Redis does not show its maxmemory-policy: make sure that it is allkeys-lru"
	case info["maxmemory"] == "0":
		return "maxmemory in Redis is 0: the seen set may use all memory of the machine; set maxmemory, with maxmemory-policy allkeys-lru"
	case policy == "noeviction":
		return "maxmemory-policy in Redis is noeviction: when Redis is full, no more keys are added to the seen set, and each front applies the partners' limits by itself; set it to allkeys-lru"
	case strings.HasPrefix(policy, "volatile-"):
		return "maxmemory-policy in Redis is " + policy +
			": when Redis is full, it drops the partners' limits and keeps the seen set; set it to allkeys-lru"
	}
	return ""
}

// fieldsOf parses the answer to INFO.
func fieldsOf(info string) map[string]string {
	fields := make(map[string]string)
	for line := range strings.Lines(info) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields
}
