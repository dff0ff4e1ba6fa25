// Package closing stops a listener without resetting the connections of clients.
//
// To close a TCP listener resets the connections that the kernel has made and the
// server has not accepted yet, over which requests may have come already: their clients
// see "connection reset by peer", and can't know whether their request was taken. A load
// balancer that watches /readyz sends nothing by then, but clients that connect directly,
// or through a balancer that has not noticed, do. So the order is another one: first the
// kernel drops what asks for a new connection (SYN), by a filter on the socket; then the
// server accepts what is left and waits until a request has come over each; only then it
// closes the listener. A client that was dropped tries again by itself after a second,
// and finds nobody listening, or another front.
//
// The filter needs Linux. Elsewhere the listener is closed as usual.
package closing

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// Listen listens at a TCP address, without Multipath TCP, whose sockets take no filter.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	return config.Listen(ctx, "tcp", address)
}

// Connections are those of a server over which no request has come yet. The zero value
// has none. It is safe for concurrent use.
type Connections struct {
	mu  sync.Mutex
	new map[net.Conn]struct{} // guarded by mu
}

// Track is the server's [http.Server.ConnState].
func (c *Connections) Track(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if state != http.StateNew {
		delete(c.new, conn)
		return
	}
	if c.new == nil {
		c.new = make(map[net.Conn]struct{})
	}
	c.new[conn] = struct{}{}
}

func (c *Connections) any() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.new) > 0
}

// Refuse lets a listener make no more connections, and waits until those being made have
// brought a request: for least, up to 50 ms more, and up to a second if need be. A server takes no notice of
// the first request of a connection that comes after [http.Server.Shutdown]. The error
// says why connections may be reset after all; it is nil where there is no filter.
func (c *Connections) Refuse(listener net.Listener, least time.Duration) error {
	err := refuse(listener)
	time.Sleep(least)
	// A connection that was just accepted is seen by neither of the two for a moment, so
	// look several times.
	const pause = 5 * time.Millisecond
	quiet := min(int(least/pause), 10)
	for seen, until := quiet, time.Now().Add(time.Second); time.Now().Before(until); seen-- {
		if anyWaiting(listener) || c.any() {
			seen = quiet + 1
		} else if seen == 0 {
			break
		}
		time.Sleep(pause)
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}
