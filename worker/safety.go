package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/mod/semver"

	"intake/internal/safety"
)

// MinNATSVersion is the oldest NATS that stores the messages of a large batch all
// or none, whatever dies meanwhile.
const MinNATSVersion = "2.12.7"

// A Check tells whether what NATS says it has stored, it keeps.
type Check struct {
	// MonitorURLs are of the servers' HTTP monitoring, which alone tells whether
	// they sync each message: http://nats:8222. Without any that stays unknown.
	MonitorURLs []string
	// AllowUnsafe has breaches logged only.
	AllowUnsafe bool
}

// run checks the server that nc is connected to, now and after each reconnect,
// until ctx ends, and calls passed when one has passed. It returns a
// *safety.Breach, or nil when ctx ends.
func (c Check) run(ctx context.Context, nc *nats.Conn, logger *zap.Logger, passed func()) error {
	const every = 100 * time.Millisecond
	checked, warned := uint64(0), false // which connection was
	for ; ; sleep(ctx, every) {
		connection := 1 + nc.Stats().Reconnects
		switch {
		case ctx.Err() != nil:
			return nil
		case !nc.IsConnected() || checked == connection:
			continue
		}
		err := c.check(ctx, nc)
		var breach *safety.Breach
		if errors.As(err, &breach) {
			if !c.AllowUnsafe {
				return breach
			}
			logger.Warn("going on as --allow-unsafe says", zap.Error(breach))
			err = nil
		}
		if err != nil {
			logger.Debug("cannot check NATS yet", zap.Error(err))
			continue
		}
		passed()
		checked = connection
		if len(c.MonitorURLs) == 0 && !warned {
			warned = true
			logger.Warn("whether NATS syncs each message is not known: see that its jetstream block has sync_interval: always, or have it looked up with --nats-monitor-url")
		}
	}
}

// breachOf tells whether a breach has ended ctx.
func breachOf(ctx context.Context) error {
	var breach *safety.Breach
	if errors.As(context.Cause(ctx), &breach) {
		return breach
	}
	return nil
}

func (c Check) check(ctx context.Context, nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if version := nc.ConnectedServerVersion(); semver.Compare("v"+version, "v"+MinNATSVersion) < 0 {
		return &safety.Breach{Setting: "the version of NATS", Is: version,
			Because: "it may store a part of a large batch that was refused", Do: "use NATS " + MinNATSVersion + " or newer"}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	stream, err := js.Stream(ctx, StreamName)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound): // it will be made as it should be
	case err != nil:
		return fmt.Errorf("stream %s: %w", StreamName, err)
	case stream.CachedInfo().Config.Storage != jetstream.FileStorage:
		return &safety.Breach{Setting: "the storage of stream " + StreamName, Is: stream.CachedInfo().Config.Storage.String(),
			Because: "a restart of NATS takes batches that were answered 202", Do: "remove the stream when it is empty, it is made anew"}
	case stream.CachedInfo().Config.PersistMode != jetstream.DefaultPersistMode:
		return &safety.Breach{Setting: "the persistence of stream " + StreamName, Is: "async",
			Because: "a crash of NATS may take batches that were answered 202", Do: "remove the stream when it is empty, it is made anew"}
	}
	return c.checkMonitors(ctx)
}

// checkMonitors asks all servers how they sync. Some of them may be away.
func (c Check) checkMonitors(ctx context.Context) error {
	var away []error
	for _, monitor := range c.MonitorURLs {
		err := checkSync(ctx, monitor)
		var breach *safety.Breach
		if errors.As(err, &breach) {
			return breach
		}
		if err != nil {
			away = append(away, err)
		}
	}
	if len(away) < len(c.MonitorURLs) {
		return nil
	}
	return errors.Join(away...)
}

// checkSync asks a server's monitoring whether JetStream syncs each message.
func checkSync(ctx context.Context, monitorURL string) error {
	address, err := url.JoinPath(monitorURL, "jsz")
	if err != nil {
		return fmt.Errorf("--nats-monitor-url: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("--nats-monitor-url: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("ask NATS how it syncs: %w", err)
	}
	defer response.Body.Close()
	var answer struct {
		Config *struct {
			SyncAlways   bool          `json:"sync_always"`
			SyncInterval time.Duration `json:"sync_interval"`
		} `json:"config"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, 1<<20)).Decode(&answer); err != nil {
		return fmt.Errorf("ask NATS how it syncs: %s answered %s: %w", address, response.Status, err)
	}
	if answer.Config == nil {
		return fmt.Errorf("ask NATS how it syncs: %s says nothing of JetStream's configuration", address)
	}
	if !answer.Config.SyncAlways {
		return &safety.Breach{Setting: "sync_interval of JetStream at " + strings.TrimSuffix(monitorURL, "/"), Is: answer.Config.SyncInterval.String(),
			Because: "a power cut takes batches that were answered 202 up to that long ago", Do: "set sync_interval: always in the jetstream block of its configuration"}
	}
	return nil
}
