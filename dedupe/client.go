package dedupe

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// NewClient makes a client of the Redis at a URL, or of the Redis Cluster at
// several, separated by commas. It connects when it is first used.
func NewClient(urls string) (redis.UniversalClient, error) {
	var options *redis.UniversalOptions
	for _, text := range strings.Split(urls, ",") {
		text = strings.TrimSpace(text)
		one, err := redis.ParseURL(text)
		if err != nil {
			return nil, badURL(text)
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

// EachServer calls do with a Redis, or with each master of a Redis Cluster, at the
// same time.
func EachServer(ctx context.Context, client redis.UniversalClient, do func(context.Context, *redis.Client) error) error {
	switch client := client.(type) {
	case *redis.ClusterClient:
		return client.ForEachMaster(ctx, do)
	case *redis.Client:
		return do(ctx, client)
	}
	return fmt.Errorf("a %T is neither a Redis nor a Redis Cluster", client)
}

// badURL says what is wrong with a URL, and quotes nothing of it: where a
// password's special characters are not escaped, the parser takes parts of it
// for the port, the path or an option, and its errors show them.
func badURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return errors.New("a Redis URL is empty")
	case err != nil:
		return errors.New("a Redis URL can't be read: it is like redis://user:password@host:6379/0, in which / , ? # and % of a password are %2F %2C %3F %23 and %25")
	case u.Scheme != "redis" && u.Scheme != "rediss" && u.Scheme != "unix":
		return errors.New("a Redis URL begins with redis:// or, for TLS, rediss://")
	}
	return errors.New("a Redis URL has a path that is no database number, or an option that is not known")
}
