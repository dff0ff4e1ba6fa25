package sink

import (
	"context"
	"net"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// connections are the open connections to Postgres, so that Close can cut them. pgx
// alone would wait up to 15 s for a server that does not respond, and would open another
// connection to it to cancel the running statement.
type connections struct {
	mu   sync.Mutex
	open map[*connection]struct{} // guarded by mu
	cut  bool                     // guarded by mu
}

type connection struct {
	net.Conn
	of *connections
}

// dialer returns a dial function that registers its connections.
func (c *connections) dialer(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		made, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		conn := &connection{Conn: made, of: c}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.cut {
			made.Close()
			return nil, net.ErrClosed
		}
		c.open[conn] = struct{}{}
		return conn, nil
	}
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// cutAll closes all connections. Later dials fail.
func (c *connections) cutAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	for conn := range c.open {
		conn.Conn.Close()
	}
}
