package local

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/redis/go-redis/v9"
)

// A NATSCluster makes a NATS a member of a cluster on 127.0.0.1.
type NATSCluster struct {
	Name   string   // of this server
	Port   int      // at which the others reach it
	Routes []string // of the others, as in nats://127.0.0.1:6222
}

// join sets a server's options for the cluster. Servers do not advertise each other, so that
// clients use only the URLs that they have.
func (c *NATSCluster) join(opts *server.Options) error {
	opts.ServerName = c.Name
	opts.Cluster = server.ClusterOpts{Name: "intake", Host: "127.0.0.1", Port: c.Port, NoAdvertise: true}
	for _, route := range c.Routes {
		parsed, err := url.Parse(route)
		if err != nil {
			return fmt.Errorf("route %s: %w", route, err)
		}
		opts.Routes = append(opts.Routes, parsed)
	}
	return nil
}

// A RedisNode makes a Redis a member of a Redis Cluster on 127.0.0.1.
type RedisNode struct {
	Port, BusPort int
	// AnnouncePort is the port that it announces to clients, such as a proxy's.
	AnnouncePort int
}

func (n *RedisNode) config() string {
	return fmt.Sprintf("cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-node-timeout 2000\ncluster-require-full-coverage no\n"+
		"cluster-port %d\ncluster-announce-ip 127.0.0.1\ncluster-announce-port %d\ncluster-announce-bus-port %d\n",
		n.BusPort, n.AnnouncePort, n.BusPort)
}

// JoinRedisCluster makes a cluster of nodes that have just started, with an equal part of
// the slots each. It returns once all of them report that the cluster is complete.
func JoinRedisCluster(ctx context.Context, nodes ...*Redis) error {
	const slots = 16384
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	clients := make([]*redis.Client, len(nodes))
	for i, node := range nodes {
		options, err := redis.ParseURL(node.URL())
		if err != nil {
			return err
		}
		clients[i] = redis.NewClient(options)
		defer clients[i].Close()
		if err := clients[i].Do(ctx, "cluster", "addslotsrange", slots*i/len(nodes),
			slots*(i+1)/len(nodes)-1).Err(); err != nil {
			return fmt.Errorf("assign slots to a Redis: %w", err)
		}
		if err := clients[i].Do(ctx, "cluster", "meet", "127.0.0.1", nodes[0].port,
			nodes[0].opts.Node.BusPort).Err(); err != nil {
			return fmt.Errorf("join a Redis Cluster: %w", err)
		}
	}
	for _, client := range clients {
		for {
			info, err := client.ClusterInfo(ctx).Result()
			if err == nil && strings.Contains(info, "cluster_state:ok") &&
				strings.Contains(info, fmt.Sprintf("cluster_slots_ok:%d", slots)) {
				break
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("the Redis Cluster is not complete: %w", errors.Join(err, ctx.Err()))
			}
		}
	}
	return nil
}
