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

// NewClient returns a client of the Redis at a URL, or of the Redis Cluster at several
// URLs separated by commas. It connects when it is first used.
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
				// The caller does without Redis rather than wait for a connection.
				DialTimeout: time.Second, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
				PoolTimeout: time.Second,
				MaxRetries:  -1, DialerRetries: 1,
				// The caller's deadlines apply to connections too.
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

// EachServer calls do with the Redis of client, or concurrently with each master of its
// Redis Cluster.
func EachServer(ctx context.Context, client redis.UniversalClient,
	do func(context.Context, *redis.Client) error) error {
	switch client := client.(type) {
	case *redis.ClusterClient:
		return client.ForEachMaster(ctx, do)
	case *redis.Client:
		return do(ctx, client)
	}
	return fmt.Errorf("a %T is neither a Redis nor a Redis Cluster", client)
}

// badURL returns what is wrong with a URL, without quoting it: if special characters of
// the password are not escaped, the parser takes parts of it for the port, the path or an
// option, and its errors would show them.
func badURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return errors.New("a Redis URL is empty")
	case err != nil:
		return errors.New("cannot parse a Redis URL: it must look like redis://user:password@host:6379/0, in which / , ? # and % of a password are %2F %2C %3F %23 and %25")
	case u.Scheme != "redis" && u.Scheme != "rediss" && u.Scheme != "unix":
		return errors.New("a Redis URL must begin with redis:// or, for TLS, rediss://")
	}
	return errors.New("a Redis URL has a path that is not a database number, or an unknown option")
}
