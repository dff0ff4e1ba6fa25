package localtest

import (
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
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
	proxy := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), t.Name(), "127.0.0.1:0", parsed.Host)
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
