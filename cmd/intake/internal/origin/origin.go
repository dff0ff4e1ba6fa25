// Package origin finds out which host a request or a connection comes from, behind
// proxies too.
package origin

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Proxies are the networks of the trusted proxies in front of the server: only their
// X-Forwarded-For is believed.
type Proxies []netip.Prefix

// Contain reports whether an address is a trusted proxy's.
func (p Proxies) Contain(address netip.Addr) bool {
	for _, prefix := range p {
		if prefix.Contains(address.Unmap()) {
			return true
		}
	}
	return false
}

// Of returns the host that a request comes from: the last address that is no trusted
// proxy's, as [HostOf] returns it.
func (p Proxies) Of(r *http.Request) netip.Addr {
	address := Parse(r.RemoteAddr)
	forwarded := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(forwarded) - 1; i >= 0 && p.Contain(address); i-- {
		next, err := netip.ParseAddr(strings.TrimSpace(forwarded[i]))
		if err != nil {
			break
		}
		address = next
	}
	return HostOf(address)
}

// Parse returns the address of a connection's far end, the zero Addr if it has none.
func Parse(remote string) netip.Addr {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	address, _ := netip.ParseAddr(host)
	return address
}

// HostOf returns one address for all that a host may have: an IPv6 host usually has a
// whole network of 64 bits.
func HostOf(address netip.Addr) netip.Addr {
	address = address.Unmap()
	if address.Is6() {
		network, _ := address.Prefix(64)
		address = network.Addr()
	}
	return address
}
