package localtest

import (
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"intake/internal/local"
)

// Silenced returns a URL that leads to a server through a proxy, and two functions: after deafen
// the server hears its clients and none of its answers arrive; after mute answers arrive and the
// server hears nothing. Connections stay open.
func Silenced(t testing.TB, server string) (proxied string, deafen, mute func()) {
	t.Helper()
	parsed, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	proxy := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), t.Name(),
		"127.0.0.1:0", parsed.Host)
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Stop)
	_, port, err := net.SplitHostPort(proxy.Listen)
	if err != nil {
		t.Fatal(err)
	}
	parsed.Host = net.JoinHostPort("127.0.0.1", port)
	silence := func(direction string) func() {
		return func() {
			toxic := `{"type": "timeout", "stream": "` + direction + `", "attributes": {"timeout": 0}}`
			if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
				t.Error(err)
			}
		}
	}
	return parsed.String(), silence("downstream"), silence("upstream")
}

// NATSClusterWithLinks returns a cluster of size servers, and a function that cuts one of
// them off from the others. Its clients still reach it.
func NATSClusterWithLinks(t testing.TB, size int) (servers []*local.NATS, cutOff func(server int)) {
	t.Helper()
	ports := freePorts(t, size)
	links := make([][]func(), size) // by server, of both its ends
	servers = make([]*local.NATS, size)
	for i := range servers {
		cluster := &local.NATSCluster{Name: fmt.Sprintf("nats-%d", i+1), Port: ports[i]}
		for j, port := range ports {
			if i == j {
				continue
			}
			route, deafen, mute := Silenced(t, fmt.Sprintf("nats://127.0.0.1:%d", port))
			cluster.Routes = append(cluster.Routes, route)
			cut := sync.OnceFunc(func() { deafen(); mute() })
			links[i], links[j] = append(links[i], cut), append(links[j], cut)
		}
		servers[i] = NATSWith(t, local.NATSOptions{Cluster: cluster})
	}
	waitCluster(t, servers)
	return servers, func(server int) {
		for _, cut := range links[server] {
			cut()
		}
	}
}
