package front

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/netutil"

	"intake/cmd/intake/internal/closing"
)

type baseKey struct{}

// baseOf returns the context that a request's context is made from. It does not end when
// the client goes away, but near the end of a shutdown.
func baseOf(r *http.Request) context.Context {
	if base, ok := r.Context().Value(baseKey{}).(context.Context); ok {
		return base
	}
	return r.Context()
}

// Serve serves partners at a listener, which should be of [closing.Listen], until ctx
// ends. Then it shuts down within timeout:
//
//  1. Requests are still served for DrainDelay, with Connection: close.
//  2. No more connections are made (see package closing), and the listener is closed.
//  3. Requests in flight are answered. Streams end with a line that says why.
//  4. After 80 % of timeout, requests that still wait for a commit get 202.
//  5. At the end of timeout, what is left is broken off, and Serve returns an error.
func (f *Front) Serve(ctx context.Context, listener net.Listener, timeout time.Duration) error {
	var connections closing.Connections
	server := f.newServer()
	server.ConnState = connections.Track
	limited := netutil.LimitListener(f.limitHosts(listener), maxConnections)
	if f.opts.Certificate != nil {
		limited = tls.NewListener(limited, f.opts.Certificate.Config())
	}
	base, stopWaits := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWaits()
	server.BaseContext = func(net.Listener) context.Context { return context.WithValue(base, baseKey{}, base) }
	shut := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		f.draining.Store(true)
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		last := time.AfterFunc(timeout*8/10, stopWaits)
		defer last.Stop()
		f.drain(&connections, listener, min(f.opts.DrainDelay, timeout/2))
		f.close()
		err := server.Shutdown(ending)
		if err != nil {
			err = errors.Join(fmt.Errorf("requests were broken off after %s: %w", timeout, err), server.Close())
		}
		shut <- err
	})
	if err := server.Serve(limited); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return fmt.Errorf("serve partners: %w", err)
	}
	return <-shut
}

func (f *Front) newServer() *http.Server {
	server := &http.Server{
		Handler:           f,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		// net/http's timeouts do not cover an HTTP/2 connection that never completes its
		// headers, or whose peer is gone. Neither can answer a PING, so pings bound both.
		HTTP2:     &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 15 * time.Second},
		ErrorLog:  zap.NewStdLog(f.opts.Logger.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
		Protocols: new(http.Protocols),
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	return server
}

// drain goes on serving for a while, in the last part of which no more connections are
// made.
func (f *Front) drain(connections *closing.Connections, listener net.Listener, while time.Duration) {
	last := min(while/2, 250*time.Millisecond)
	time.Sleep(while - last)
	if err := connections.Refuse(listener, last); err != nil {
		f.opts.Logger.Warn("connections that are being made now may be reset", zap.Error(err))
	}
}

func (f *Front) isClosing() bool {
	select {
	case <-f.closing:
		return true
	default:
		return false
	}
}
