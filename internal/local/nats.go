package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// NATSOptions are the options of a private NATS. Dir is required.
type NATSOptions struct {
	// Dir is the folder of its data. It is made if it does not exist.
	Dir string
	// Cluster, if set, makes it a member of a cluster.
	Cluster *NATSCluster
	// SyncInterval, if set, makes JetStream sync at this interval, as it does by
	// default. A power cut then loses messages that were acknowledged.
	SyncInterval time.Duration
	// MaxPayload is the maximum size of a message in bytes. The default has room for
	// the largest message of Intake.
	MaxPayload int32
	// MaxStore is the number of bytes that the streams may reserve. The default depends on
	// the free space of the disk.
	MaxStore int64
}

// NATS is a private NATS with JetStream, within this process. It syncs each
// message to disk before it acknowledges it, unless SyncInterval is set.
type NATS struct {
	opts     NATSOptions
	password string
	port     int
	server   *server.Server
	log      *natsLog
}

// maxPayload is queue.LargestMessage.
const maxPayload = 8 << 20

// StartNATS starts a NATS and waits until it is ready.
func StartNATS(ctx context.Context, opts NATSOptions) (*NATS, error) {
	var err error
	if opts.Dir, err = filepath.Abs(opts.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(opts.Dir, 0o755); err != nil {
		return nil, err
	}
	n := &NATS{opts: opts}
	if n.password, err = keptSecret(opts.Dir); err != nil {
		return nil, err
	}
	if err := n.Start(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// URL returns the URL of the NATS.
func (n *NATS) URL() string {
	u := url.URL{Scheme: "nats", User: url.UserPassword("intake", n.password), Host: net.JoinHostPort("127.0.0.1",
		strconv.Itoa(n.port))}
	return u.String()
}

// Name returns its name in the cluster.
func (n *NATS) Name() string { return n.server.Name() }

// MonitorURL returns the URL of its HTTP monitoring. It has another port after each start.
func (n *NATS) MonitorURL() string { return "http://" + n.server.MonitorAddr().String() }

// LogPath returns the file that NATS logs to.
func (n *NATS) LogPath() string { return filepath.Join(n.opts.Dir, "nats.log") }

// Start starts a NATS that was stopped, at the same address if that is still free.
func (n *NATS) Start(ctx context.Context) error {
	var err error
	if n.port, err = keptPort(n.opts.Dir); err != nil {
		return err
	}
	log, err := openNATSLog(n.LogPath())
	if err != nil {
		return err
	}
	options := &server.Options{
		ServerName: "intake", Host: "127.0.0.1", Port: n.port,
		Username: "intake", Password: n.password,
		JetStream: true, JetStreamMaxStore: n.opts.MaxStore, StoreDir: n.opts.Dir, SyncAlways: n.opts.SyncInterval == 0,
		SyncInterval: n.opts.SyncInterval, MaxPayload: cmp.Or(n.opts.MaxPayload, maxPayload),
		HTTPHost: "127.0.0.1", HTTPPort: server.RANDOM_PORT,
		NoSigs: true,
	}
	if n.opts.Cluster != nil {
		if err := n.opts.Cluster.join(options); err != nil {
			return errors.Join(err, log.file.Close())
		}
	}
	natsServer, err := server.NewServer(options)
	if err != nil {
		return errors.Join(fmt.Errorf("start NATS: %w", err), log.file.Close())
	}
	natsServer.SetLoggerV2(log, false, false, false)
	n.server, n.log = natsServer, log
	go n.server.Start()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for !n.server.ReadyForConnections(30 * time.Millisecond) {
		select {
		case err = <-log.fatal:
			err = fmt.Errorf("start NATS: %w", err)
		case <-ctx.Done():
			err = fmt.Errorf("NATS is not ready (%w); its log is %s", ctx.Err(), n.LogPath())
		default:
			continue
		}
		stopping, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return errors.Join(err, n.Stop(stopping))
	}
	return nil
}

// Stop ends NATS.
func (n *NATS) Stop(ctx context.Context) error {
	n.server.Shutdown()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		n.server.WaitForShutdown()
	}()
	select {
	case <-stopped:
		_ = n.log.file.Close() // it may have been closed before
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop NATS: %w", ctx.Err())
	}
}
