package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"intake/internal/local"
)

// clusterSize is how many servers of a kind there are. With one down, those of NATS
// still have a majority.
const clusterSize = 3

// startClusters starts a cluster of NATS and one of Redis.
func (s *stack) startClusters(ctx context.Context) error {
	if err := s.startNATSCluster(ctx); err != nil {
		return err
	}
	return s.startRedisCluster(ctx)
}

// startNATSCluster starts servers with a link for each route. Both directions between
// two servers use one connection.
func (s *stack) startNATSCluster(ctx context.Context) error {
	ports := make([]int, clusterSize)
	for i := range ports {
		var err error
		if ports[i], err = local.FreePort(0); err != nil {
			return err
		}
	}
	urls := make([]string, clusterSize)
	for i := range clusterSize {
		name := fmt.Sprintf("nats-%d", i+1)
		flags := []string{"--name=" + name, "--cluster-port=" + strconv.Itoa(ports[i])}
		for j, port := range ports {
			if i == j {
				continue
			}
			address, err := s.link(fmt.Sprintf("%s to nats-%d", name, j+1), "127.0.0.1:0",
				net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if err != nil {
				return err
			}
			flags = append(flags, "--routes=nats://"+address)
		}
		var err error
		if urls[i], err = s.startNATS(ctx, name, flags...); err != nil {
			return err
		}
	}
	s.natsURL = strings.Join(urls, ",")
	return nil
}

// startRedisCluster starts nodes with a link to each. The nodes announce the links'
// addresses to clients.
func (s *stack) startRedisCluster(ctx context.Context) error {
	password := rand.Text()
	var urls []string
	for i := range clusterSize {
		node := new(local.RedisNode)
		for _, port := range []*int{&node.Port, &node.BusPort} {
			var err error
			if *port, err = local.FreePort(0); err != nil {
				return err
			}
		}
		name := fmt.Sprintf("redis-%d", i+1)
		address, err := s.link("all to "+name, "127.0.0.1:0", net.JoinHostPort("127.0.0.1", strconv.Itoa(node.Port)))
		if err != nil {
			return err
		}
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return err
		}
		if node.AnnouncePort, err = strconv.Atoi(port); err != nil {
			return err
		}
		started, err := local.StartRedis(ctx, local.RedisOptions{Dir: filepath.Join(s.opts.Dir, name),
			Password: password, Node: node})
		if err != nil {
			return err
		}
		s.redis = append(s.redis, started)
		urls = append(urls, (&url.URL{Scheme: "redis", User: url.UserPassword("", password), Host: address}).String())
	}
	s.redisURL = strings.Join(urls, ",")
	return local.JoinRedisCluster(ctx, s.redis...)
}
