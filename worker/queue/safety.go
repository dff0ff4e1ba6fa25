package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/mod/semver"

	"intake/internal/safety"
	"intake/internal/sleep"
)

// MinNATSVersion is the oldest NATS that stores the messages of a large batch all or none, whatever
// crashes meanwhile.
const MinNATSVersion = "2.12.7"

// LargestMessage is the max_payload that NATS should have, in bytes: enough for the largest valid item,
// white space apart. With less, batches are cut into smaller messages, and a batch with an item that
// does not fit is refused.
const LargestMessage = 8 << 20

// A Check checks that NATS keeps what it says that it has stored.
type Check struct {
	// MonitorURLs are the URLs of the servers' HTTP monitoring, such as http://nats:8222. Only there a
	// server says whether it syncs each message; without any URL that stays unknown.
	MonitorURLs []string
	// AllowUnsafe makes breaches warnings in the log.
	AllowUnsafe bool
}

// connectionOf returns the number of the connection, counting reconnects, or 0 while there is none.
func connectionOf(nc *nats.Conn) uint64 {
	if !nc.IsConnected() {
		return 0
	}
	return 1 + nc.Stats().Reconnects
}

// Watch checks the server that nc is connected to, now and after each reconnect, and calls passed with the
// number of each connection that passes. It returns [safety.Breaches], or nil when ctx ends.
func (c Check) Watch(ctx context.Context, nc *nats.Conn, stream StreamOptions, logger *zap.Logger,
	passed func(connection uint64),
) error {
	const every = 20 * time.Millisecond
	var checked uint64 // connection
	warned, said, patience := false, "", checkTimeout
	for ; ; sleep.For(ctx, every) {
		connection := connectionOf(nc)
		switch {
		case ctx.Err() != nil:
			return nil
		case connection == 0 || checked == connection:
			continue
		}
		trying, cancel := context.WithTimeout(ctx, patience)
		breaches, others := safety.Find(c.check(trying, nc, stream, logger))
		cancel()
		if ctx.Err() != nil || connectionOf(nc) != connection {
			continue // the result may be another server's
		}
		if len(breaches) > 0 && !c.AllowUnsafe {
			return breaches
		}
		if others != nil {
			if others.Error() != said { // once
				said = others.Error()
				logger.Warn("cannot check NATS yet, trying again", zap.Error(others))
			}
			patience = min(2*patience, maxCheckTimeout)
			sleep.For(ctx, checkAgain)
			continue
		}
		for _, breach := range breaches {
			logger.Warn("going on as --allow-unsafe says", zap.Error(breach))
		}
		if payload := nc.MaxPayload(); payload < LargestMessage {
			logger.Warn("NATS accepts smaller messages than some items need, and batches with such items are refused "+
				"with 413: set max_payload: 8MB in its configuration",
				zap.Int64("max_payload", payload), zap.Int("needed", LargestMessage))
		}
		passed(connection)
		checked, said, patience = connection, "", checkTimeout
		if len(c.MonitorURLs) == 0 && !warned {
			warned = true
			logger.Warn("it is not known whether NATS syncs each message: set sync_interval: always in its jetstream " +
				"block, and --nats-monitor-url to have it checked")
		}
	}
}

// Once returns all that is wrong with the server that nc is connected to, with a [*safety.Breach] for each
// unsafe setting.
func (c Check) Once(ctx context.Context, nc *nats.Conn, stream StreamOptions) error {
	if err := CheckConnected(nc); err != nil {
		return err
	}
	return c.check(ctx, nc, stream, zap.NewNop())
}

// The first check has a second and each next one twice as long. A question that is asked during an
// election in a cluster is never answered, so a wait should be short; but a server may also be slow.
// checkAgain is the pause between tries.
const (
	checkTimeout    = time.Second
	maxCheckTimeout = 8 * time.Second
	checkAgain      = 100 * time.Millisecond
)

// check returns all that is wrong with the server that nc is connected to. It raises the replicas of the
// stream if they are too few.
func (c Check) check(ctx context.Context, nc *nats.Conn, stream StreamOptions, logger *zap.Logger) error {
	return errors.Join(
		checkVersion(nc.ConnectedServerVersion()),
		checkStream(ctx, nc, stream, logger),
		c.checkMonitors(ctx, nc),
	)
}

func checkVersion(version string) error {
	if semver.Compare("v"+version, "v"+MinNATSVersion) >= 0 {
		return nil
	}
	return &safety.Breach{Setting: "the version of NATS", Is: version,
		Because: "it may store a part of a large batch that was refused",
		Do:      "use NATS " + MinNATSVersion + " or newer"}
}

func checkStream(ctx context.Context, nc *nats.Conn, want StreamOptions, logger *zap.Logger) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	stream, err := js.Stream(ctx, StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // it will be created as it has to be
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", StreamName, err)
	}
	config := stream.CachedInfo().Config
	var wrong []error
	if config.Storage != jetstream.FileStorage {
		wrong = append(wrong, &safety.Breach{Setting: "the storage of stream " + StreamName,
			Is:      config.Storage.String(),
			Because: "a restart of NATS loses batches that were answered 202",
			Do:      "delete the stream when it is empty; it is created again"})
	}
	if config.PersistMode != jetstream.DefaultPersistMode {
		wrong = append(wrong, &safety.Breach{Setting: "the persistence of stream " + StreamName, Is: "async",
			Because: "a crash of NATS may lose batches that were answered 202",
			Do:      "delete the stream when it is empty; it is created again"})
	}
	if len(wrong) > 0 {
		return errors.Join(wrong...)
	}
	return checkReplicas(ctx, js, config, want.log(), logger)
}

// checkReplicas raises the replicas if they are fewer than wanted. It does not lower them: the process may
// only lack the flag.
func checkReplicas(
	ctx context.Context, js jetstream.JetStream, have, want jetstream.StreamConfig, logger *zap.Logger,
) error {
	replicas := zap.Int("replicas", have.Replicas)
	if have.Replicas > want.Replicas {
		logger.Info("the queue has more replicas than --queue-replicas, and keeps them",
			replicas, zap.Int("wanted", want.Replicas))
	}
	if have.Replicas >= want.Replicas {
		return nil
	}
	raised := have
	raised.Replicas = want.Replicas
	_, err := js.UpdateStream(ctx, raised)
	switch {
	case lacksServers(err):
		return tooFewReplicas(have, want, err)
	case err != nil:
		return fmt.Errorf("raise the replicas of stream %s from %d to %d: %w", have.Name, have.Replicas, want.Replicas,
			err)
	}
	logger.Info("raised the replicas of the queue to --queue-replicas", replicas, zap.Int("wanted", want.Replicas))
	return nil
}

// checkMonitors asks all servers how they sync. Some may be down, but not the one that nc is connected to.
func (c Check) checkMonitors(ctx context.Context, nc *nats.Conn) error {
	if len(c.MonitorURLs) == 0 {
		return nil
	}
	connected, name := nc.ConnectedServerId(), nc.ConnectedServerName()
	servers, errs := make([]string, len(c.MonitorURLs)), make([]error, len(c.MonitorURLs))
	var asking sync.WaitGroup
	for i, monitor := range c.MonitorURLs {
		asking.Go(func() { servers[i], errs[i] = checkSync(ctx, monitor) })
	}
	asking.Wait()
	breaches, unknown := safety.Find(errors.Join(errs...))
	switch {
	case slices.Contains(servers, connected):
		unknown = nil
	case unknown != nil:
		unknown = fmt.Errorf("it is not known whether the connected NATS (%s) syncs each message: %w", name, unknown)
	default:
		// A restarted server has another ID, so make sure that the connection is still to this one.
		asking, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if err := nc.FlushWithContext(asking); err != nil {
			return fmt.Errorf("ping NATS: %w", err)
		}
		breaches = append(breaches, &safety.Breach{
			Setting: "the server at --nats-monitor-url " + strings.Join(c.MonitorURLs, ", "),
			Is:      "not the connected server (" + name + ", whose ID is " + connected + ")",
			Because: "it is not known whether the connected server syncs each message, and a power cut may lose batches " +
				"that were answered 202",
			Do: "give the monitoring URL of each server in --nats-url",
		})
	}
	if len(breaches) > 0 {
		return errors.Join(breaches, unknown)
	}
	return unknown
}

// checkSync asks a server's monitoring whether JetStream syncs each message, and returns the server's ID.
func checkSync(ctx context.Context, monitorURL string) (serverID string, err error) {
	address, err := url.JoinPath(monitorURL, "jsz")
	if err != nil {
		return "", fmt.Errorf("--nats-monitor-url: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", fmt.Errorf("--nats-monitor-url: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("ask NATS how it syncs: %w", err)
	}
	defer response.Body.Close()
	var answer struct {
		ServerID string `json:"server_id"`
		Disabled bool   `json:"disabled"`
		Config   *struct {
			SyncAlways   bool          `json:"sync_always"`
			SyncInterval time.Duration `json:"sync_interval"`
		} `json:"config"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, 1<<20)).Decode(&answer); err != nil {
		return "", fmt.Errorf("ask NATS how it syncs: %s answered %s: %w", address, response.Status, err)
	}
	if answer.Config == nil || answer.Disabled {
		return "", fmt.Errorf("ask NATS how it syncs: %s does not report JetStream's configuration", address)
	}
	if !answer.Config.SyncAlways {
		return answer.ServerID, &safety.Breach{
			Setting: "sync_interval of JetStream at " + strings.TrimSuffix(monitorURL, "/"),
			Is:      answer.Config.SyncInterval.String(),
			Because: "a power cut loses batches that were answered 202 up to that long ago",
			Do:      "set sync_interval: always in the jetstream block of its configuration",
		}
	}
	return answer.ServerID, nil
}
