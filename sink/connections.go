package sink

import (
	"context"
	"net"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// connections are those to Postgres that are open. pgx takes up to 15 s, and asks
// the server over another connection to cancel what is under way, before it gives
// one up: of a server that has fallen silent they have to be cut.
type connections struct {
	mu   sync.Mutex
	open map[*connection]struct{} // guarded by mu, as is the one below
	cut  bool
}

type connection struct {
	net.Conn
	of *connections
}

// dialer makes connections that are known.
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

// cutAll closes all connections, and those to come.
func (c *connections) cutAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	for conn := range c.open {
		conn.Conn.Close()
	}
}
