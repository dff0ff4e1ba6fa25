package queue

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"intake/internal/sleep"
)

// Connect connects to NATS at one URL, or at several that are separated by commas. The connection is made
// in the background, and again whenever it is lost, until it is closed. Each cause of a failure is logged
// once.
func Connect(urls, name string, logger *zap.Logger) (*nats.Conn, error) {
	if logger == nil {
		logger = zap.NewNop()
	}
	failures := &failures{logger: logger}
	nc, err := nats.Connect(urls,
		nats.Name(name),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250*time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 500*time.Millisecond),
		nats.PingInterval(5*time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(2*time.Second),
		// Fail what cannot be sent now. Buffered until NATS is back, it would be published after its
		// request was refused.
		nats.ReconnectBufSize(-1),
		// A write that hangs blocks everything on the connection, for a minute by default.
		nats.FlusherTimeout(5*time.Second),
		nats.ReconnectOnFlusherError(),
		// A server that is being set up may refuse the password for a while. By default a second
		// refusal closes the connection for good.
		nats.IgnoreAuthErrorAbort(),
		nats.ConnectHandler(func(nc *nats.Conn) {
			failures.reset()
			logger.Info("connected to NATS",
				zap.String("server", nc.ConnectedServerName()), zap.String("address", nc.ConnectedAddr()))
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			failures.reset()
			logger.Info("reconnected to NATS",
				zap.String("server", nc.ConnectedServerName()), zap.String("address", nc.ConnectedAddr()))
		}),
		nats.ReconnectErrHandler(failures.note),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if err != nil {
				logger.Warn("lost the connection to NATS, reconnecting", zap.String("servers", serversOf(nc)),
					zap.Error(err))
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			logger.Warn("NATS reported an error", zap.Error(err))
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return nc, nil
}

// failures logs why NATS cannot be reached: each cause once, until a connection is made. The connection's
// handlers call its methods one at a time.
type failures struct {
	logger *zap.Logger
	causes map[string]bool
}

func (f *failures) note(nc *nats.Conn, err error) {
	cause := err.Error()
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		cause = op.Op + op.Err.Error() // without ports, which change with each try
	}
	if f.causes[cause] {
		return
	}
	if f.causes == nil {
		f.causes = make(map[string]bool)
	}
	f.causes[cause] = true
	f.logger.Warn("cannot reach NATS, trying again", zap.String("servers", serversOf(nc)), zap.Error(err))
}

func (f *failures) reset() { clear(f.causes) }

// serversOf returns the addresses of the servers that nc connects to, without
// credentials.
func serversOf(nc *nats.Conn) string { return strings.Join(nc.Servers(), ", ") }

// AwaitConnection waits until nc is connected. It reports whether that happened before ctx ended.
func AwaitConnection(ctx context.Context, nc *nats.Conn) bool {
	for !nc.IsConnected() {
		if !sleep.For(ctx, 50*time.Millisecond) {
			return false
		}
	}
	return ctx.Err() == nil
}

// CheckConnected returns an error that names the servers if nc is not connected. The cause is in the log
// of [Connect].
func CheckConnected(nc *nats.Conn) error {
	if nc.IsConnected() {
		return nil
	}
	return fmt.Errorf("%w at %s: trying again, and the log says why it fails", errNotConnected, serversOf(nc))
}

var errNotConnected = errors.New("no connection to NATS")
