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

// CheckServers tells what of the settings of Redis does harm: nothing that makes
// an answer untrue, for Redis holds no truth, but the memory of what was seen, or
// the partners' limits, may be lost. It fails if Redis can't be asked.
func CheckServers(ctx context.Context, client redis.UniversalClient) (warnings []string, err error) {
	var mu sync.Mutex
	err = EachServer(ctx, client, func(ctx context.Context, server *redis.Client) error {
		// All of it: sections can only be chosen one at a time before Redis 7.
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

// minVersion of Redis: the oldest that the tests run on.
const minVersion = "7.0.0"

func checkVersion(version string) string {
	if version == "" || semver.Compare("v"+version, "v"+minVersion) >= 0 {
		return ""
	}
	return "the version of Redis is " + version + ": it was never tried whether it remembers what was seen, and the partners' limits, as it should; use Redis " + minVersion + " or newer"
}

func checkEviction(info map[string]string) string {
	policy := info["maxmemory_policy"]
	switch {
	case policy == "":
		return "whether Redis forgets what it should not is not known: it does not tell its maxmemory-policy"
	case info["maxmemory"] == "0":
		return "maxmemory in Redis is 0: the seen set grows until the machine has no memory left; set maxmemory, with maxmemory-policy allkeys-lru"
	case policy == "noeviction":
		return "maxmemory-policy in Redis is noeviction: when it is full, nothing more is remembered as seen, and partners' limits hold for each front by itself; set it to allkeys-lru"
	case strings.HasPrefix(policy, "volatile-"):
		return "maxmemory-policy in Redis is " + policy + ": when it is full, it forgets the partners' limits, and nothing of the seen set; set it to allkeys-lru"
	}
	return ""
}

// fieldsOf reads an answer to INFO.
func fieldsOf(info string) map[string]string {
	fields := make(map[string]string)
	for line := range strings.Lines(info) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields
}
