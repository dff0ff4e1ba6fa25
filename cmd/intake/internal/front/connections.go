package front

import (
	"net"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"intake/cmd/intake/internal/origin"
)

// maxConnections bounds the concurrent connections; a further one waits. Connections that
// send no request, or stop within one, end after some seconds.
const maxConnections = 20_000

// A hostListener closes further connections from a host that already has its most, so that
// no host takes all that there may be.
type hostListener struct {
	net.Listener
	most    int
	exempt  func(netip.Addr) bool // proxies, whose connections are those of many
	refused prometheus.Counter

	mu    sync.Mutex
	conns map[netip.Addr]int // guarded by mu; by host
}

func (f *Front) limitHosts(listener net.Listener) net.Listener {
	if f.opts.MaxConnectionsPerAddress <= 0 {
		return listener
	}
	return &hostListener{
		Listener: listener, most: f.opts.MaxConnectionsPerAddress, exempt: f.opts.Proxies.Contain,
		refused: f.metrics.refusedConnections, conns: make(map[netip.Addr]int),
	}
}

// Accept implements net.Listener.
func (l *hostListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		address := origin.Parse(conn.RemoteAddr().String())
		if l.exempt(address) {
			return conn, nil
		}
		host := origin.HostOf(address)
		if l.enter(host) {
			return &hostConn{Conn: conn, leave: sync.OnceFunc(func() { l.leave(host) })}, nil
		}
		l.refused.Inc()
		_ = conn.Close()
	}
}

func (l *hostListener) enter(host netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns[host] >= l.most {
		return false
	}
	l.conns[host]++
	return true
}

func (l *hostListener) leave(host netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns[host]--; l.conns[host] == 0 {
		delete(l.conns, host)
	}
}

// A hostConn is a connection that counts for its host until it is closed.
type hostConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *hostConn) Close() error {
	err := c.Conn.Close()
	c.leave()
	return err
}
