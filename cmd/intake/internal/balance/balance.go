// Package balance spreads the TCP connections to one port over several fronts. It is
// for docker-compose, which publishes a port of one container only. It passes bytes
// on as they come, so TLS and streams work as without it. A load balancer that checks
// health and adds X-Forwarded-For does more: take one where there is one.
package balance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Options of [Serve]. Host and Port are required.
type Options struct {
	// Host is a name that has the addresses of all fronts. It is looked up for each
	// connection, as fronts come and go.
	Host, Port string
	// Grace is how long open connections may go on when Serve is to end.
	Grace  time.Duration
	Logger *zap.Logger
	// Lookup returns the addresses of a host; [net.Resolver.LookupHost] when nil.
	Lookup func(ctx context.Context, host string) ([]string, error)
}

const (
	// maxConnections bounds the open connections; further ones wait to be accepted.
	maxConnections = 8192
	// dialTimeout is how long one front is tried before the next.
	dialTimeout = time.Second
	// lastWords is how long a client may still send when its front has closed.
	lastWords = 5 * time.Second
)

// Serve accepts connections until ctx ends, and connects each to the next front in
// turn, or to the one after it if that one can't be reached.
func Serve(ctx context.Context, listener net.Listener, opts Options) error {
	if opts.Lookup == nil {
		opts.Lookup = net.DefaultResolver.LookupHost
	}
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	b := &balancer{opts: opts}
	open, breakOff := context.WithCancel(context.WithoutCancel(ctx))
	defer breakOff()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	room := make(chan struct{}, maxConnections)
	var connections sync.WaitGroup
	for {
		room <- struct{}{}
		client, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				client.Close()
			}
			break
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil { // such as too many open files
			<-room
			opts.Logger.Warn("cannot accept a connection", zap.Error(err))
			time.Sleep(100 * time.Millisecond)
			continue
		}
		connections.Go(func() {
			defer func() { <-room }()
			b.pass(open, client)
		})
	}
	timer := time.AfterFunc(opts.Grace, breakOff)
	defer timer.Stop()
	connections.Wait()
	return nil
}

type balancer struct {
	opts Options
	turn atomic.Uint64
	away atomic.Bool // no front could be reached for the last connection
}

// pass connects a client to a front, and passes on what both send until both have
// ended, or until ctx ends.
func (b *balancer) pass(ctx context.Context, client net.Conn) {
	defer client.Close()
	front, err := b.dial(ctx)
	if err != nil {
		if !b.away.Swap(true) {
			b.opts.Logger.Warn("no front can be reached, and connections are closed", zap.Error(err))
		}
		return
	}
	if b.away.Swap(false) {
		b.opts.Logger.Info("fronts can be reached again")
	}
	defer front.Close()
	stop := context.AfterFunc(ctx, func() { client.Close(); front.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { copyTo(front, client) })
	both.Go(func() {
		copyTo(client, front)
		_ = client.SetReadDeadline(time.Now().Add(lastWords))
	})
	both.Wait()
}

// copyTo passes on what from sends, and its end: as an end, or as a break.
func copyTo(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		if tcp, ok := to.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		to.Close()
		from.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// dial connects to the front whose turn it is, or to the next one that can be reached.
func (b *balancer) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*dialTimeout)
	defer cancel()
	addresses, err := b.opts.Lookup(ctx, b.opts.Host)
	if err != nil {
		return nil, fmt.Errorf("look up the fronts: %w", err)
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	turn := b.turn.Add(1)
	errs := make([]error, len(addresses))
	for i := range addresses {
		address := addresses[(turn+uint64(i))%uint64(len(addresses))]
		front, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(address, b.opts.Port))
		if err == nil {
			return front, nil
		}
		errs[i] = err
	}
	return nil, errors.Join(errs...)
}
