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

// MinNATSVersion is the oldest NATS that stores the messages of a large batch all
// or none, whatever dies meanwhile.
const MinNATSVersion = "2.12.7"

// LargestMessage is the max_payload that NATS should have, in bytes: an item that
// is as large as valid ones can be, white space apart, takes a message by itself.
// Where it is less, batches are cut into smaller messages, and those with an item
// that still doesn't fit are refused.
const LargestMessage = 8 << 20

// A Check tells whether what NATS says it has stored, it keeps.
type Check struct {
	// MonitorURLs are of the servers' HTTP monitoring, which alone tells whether
	// they sync each message: http://nats:8222. Without any that stays unknown.
	MonitorURLs []string
	// AllowUnsafe has breaches logged only.
	AllowUnsafe bool
}

// connectionOf numbers the connections that nc makes one after the other; 0 while
// there is none.
func connectionOf(nc *nats.Conn) uint64 {
	if !nc.IsConnected() {
		return 0
	}
	return 1 + nc.Stats().Reconnects
}

// Watch checks the server that nc is connected to, now and after each reconnect,
// until ctx ends, and calls passed with the connection that has passed. It returns
// safety.Breaches, or nil when ctx ends.
func (c Check) Watch(ctx context.Context, nc *nats.Conn, stream StreamOptions, logger *zap.Logger, passed func(connection uint64)) error {
	const every = 20 * time.Millisecond
	var checked uint64 // which connection was
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
			continue // it may have been about another server
		}
		if len(breaches) > 0 && !c.AllowUnsafe {
			return breaches
		}
		if others != nil {
			if others.Error() != said { // not again and again
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
			logger.Warn("NATS takes no messages as large as some items need, and batches with such items are refused with 413: set max_payload: 8MB in its configuration",
				zap.Int64("max_payload", payload), zap.Int("needed", LargestMessage))
		}
		passed(connection)
		checked, said, patience = connection, "", checkTimeout
		if len(c.MonitorURLs) == 0 && !warned {
			warned = true
			logger.Warn("whether NATS syncs each message is not known: see that its jetstream block has sync_interval: always, or have it looked up with --nats-monitor-url")
		}
	}
}

// Once tells all that is wrong with the NATS that nc is connected to, with a
// *safety.Breach for each thing by which what Intake answers would be untrue.
func (c Check) Once(ctx context.Context, nc *nats.Conn, stream StreamOptions) error {
	if err := CheckConnected(nc); err != nil {
		return err
	}
	return c.check(ctx, nc, stream, zap.NewNop())
}

// A check is given more time with each try: what is asked during an election in
// a cluster is never answered, and must not be waited for long; but a server may
// also be slow. checkAgain is the pause between tries.
const (
	checkTimeout    = time.Second
	maxCheckTimeout = 8 * time.Second
	checkAgain      = 100 * time.Millisecond
)

// check tells all that is wrong with the server that nc is connected to. It raises
// the replicas of the stream, if they are fewer than is wanted.
func (c Check) check(ctx context.Context, nc *nats.Conn, stream StreamOptions, logger *zap.Logger) error {
	return errors.Join(checkVersion(nc.ConnectedServerVersion()), checkStream(ctx, nc, stream, logger), c.checkMonitors(ctx, nc))
}

func checkVersion(version string) error {
	if semver.Compare("v"+version, "v"+MinNATSVersion) >= 0 {
		return nil
	}
	return &safety.Breach{Setting: "the version of NATS", Is: version,
		Because: "it may store a part of a large batch that was refused", Do: "use NATS " + MinNATSVersion + " or newer"}
}

func checkStream(ctx context.Context, nc *nats.Conn, want StreamOptions, logger *zap.Logger) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	stream, err := js.Stream(ctx, StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // it will be made as it should be
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", StreamName, err)
	}
	config := stream.CachedInfo().Config
	var wrong []error
	if config.Storage != jetstream.FileStorage {
		wrong = append(wrong, &safety.Breach{Setting: "the storage of stream " + StreamName, Is: config.Storage.String(),
			Because: "a restart of NATS takes batches that were answered 202", Do: "remove the stream when it is empty, it is made anew"})
	}
	if config.PersistMode != jetstream.DefaultPersistMode {
		wrong = append(wrong, &safety.Breach{Setting: "the persistence of stream " + StreamName, Is: "async",
			Because: "a crash of NATS may take batches that were answered 202", Do: "remove the stream when it is empty, it is made anew"})
	}
	if len(wrong) > 0 {
		return errors.Join(wrong...)
	}
	return checkReplicas(ctx, js, config, want.log(), logger)
}

// checkReplicas sees to it that there are as many as are wanted: fewer are raised,
// and more stay, as who wants fewer may only not have been told.
func checkReplicas(ctx context.Context, js jetstream.JetStream, have, want jetstream.StreamConfig, logger *zap.Logger) error {
	replicas := zap.Int("replicas", have.Replicas)
	if have.Replicas > want.Replicas {
		logger.Info("the queue keeps its replicas, which are more than --queue-replicas", replicas, zap.Int("wanted", want.Replicas))
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
		return fmt.Errorf("raise the replicas of stream %s from %d to %d: %w", have.Name, have.Replicas, want.Replicas, err)
	}
	logger.Info("raised the replicas of the queue to --queue-replicas", replicas, zap.Int("wanted", want.Replicas))
	return nil
}

// checkMonitors asks all servers how they sync. Some of them may be away, but not
// the one that nc is connected to.
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
	breaches, away := safety.Find(errors.Join(errs...))
	switch {
	case slices.Contains(servers, connected):
		away = nil
	case away != nil:
		away = fmt.Errorf("whether the NATS that is connected to (%s) syncs each message is not known: %w", name, away)
	default:
		// A server that was restarted has another ID: is it still the one?
		asking, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if err := nc.FlushWithContext(asking); err != nil {
			return fmt.Errorf("ask NATS whether it is still there: %w", err)
		}
		breaches = append(breaches, &safety.Breach{Setting: "the server at --nats-monitor-url " + strings.Join(c.MonitorURLs, ", "),
			Is:      "another one than is connected to (" + name + ", whose ID is " + connected + ")",
			Because: "it is not known whether the server that is used syncs each message, and a power cut may take batches that were answered 202",
			Do:      "give the HTTP monitoring of each server that --nats-url leads to"})
	}
	if len(breaches) > 0 {
		return errors.Join(breaches, away)
	}
	return away
}

// checkSync asks a server's monitoring whether JetStream syncs each message, and
// which server it is.
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
		return "", fmt.Errorf("ask NATS how it syncs: %s says nothing of JetStream's configuration", address)
	}
	if !answer.Config.SyncAlways {
		return answer.ServerID, &safety.Breach{Setting: "sync_interval of JetStream at " + strings.TrimSuffix(monitorURL, "/"), Is: answer.Config.SyncInterval.String(),
			Because: "a power cut takes batches that were answered 202 up to that long ago", Do: "set sync_interval: always in the jetstream block of its configuration"}
	}
	return answer.ServerID, nil
}
