package dedupe

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// NewClient makes a client of the Redis at a URL, or of the Redis Cluster at
// several, separated by commas. It connects when it is first used.
func NewClient(urls string) (redis.UniversalClient, error) {
	var options *redis.UniversalOptions
	for _, url := range strings.Split(urls, ",") {
		one, err := redis.ParseURL(strings.TrimSpace(url))
		if err != nil {
			return nil, fmt.Errorf("read the Redis URL: %w", withoutURL(err))
		}
		if options == nil {
			options = &redis.UniversalOptions{
				Username: one.Username, Password: one.Password, DB: one.DB, TLSConfig: one.TLSConfig,
				// A connection that can't be had at once is not worth waiting for.
				DialTimeout: time.Second, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second, PoolTimeout: time.Second,
				MaxRetries: -1, DialerRetries: 1,
				// Deadlines are the caller's.
				ContextTimeoutEnabled: true,
			}
		}
		options.Addrs = append(options.Addrs, one.Addr)
	}
	if len(options.Addrs) > 1 {
		options.IsClusterMode = true
		options.DB = 0
		options.MaxRedirects = 3
	}
	return redis.NewUniversalClient(options), nil
}

// withoutURL leaves out what may quote the URL with its password.
func withoutURL(err error) error {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err
}
