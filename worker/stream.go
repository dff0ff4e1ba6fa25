// Package worker is the queue between the fronts and the data store, and the
// worker that empties it.
//
// A front submits a batch to its Queue, which publishes it, cut into chunks, to
// a JetStream stream and hears of their outcomes. A Worker takes what has
// gathered there, has it saved in one transaction, and only then acknowledges
// it. The stream is a log: what was processed stays in it for a while.
package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// Names in JetStream.
const (
	StreamName     = "INTAKE"
	DeadStreamName = "INTAKE_DEAD"

	subjectPrefix     = "intake.batch."
	deadSubjectPrefix = "intake.dead."
	outcomePrefix     = "intake.outcome."
)

// StreamOptions are how much the log holds, and how often.
type StreamOptions struct {
	// MaxBytes bounds the log; beyond it nothing is accepted. 4 GiB when zero.
	MaxBytes int64
	// Replicas in a cluster; 1 when zero.
	Replicas int
}

// duplicateWindow is how long JetStream knows a message that is published
// again. It must be well above the time for which a Queue tries.
const duplicateWindow = 2 * time.Minute

func (o StreamOptions) log() jetstream.StreamConfig {
	if o.MaxBytes <= 0 {
		o.MaxBytes = 4 << 30
	}
	return jetstream.StreamConfig{
		Name:        StreamName,
		Description: "batches of partner clients: queued, and kept for a while after they are saved",
		Subjects:    []string{subjectPrefix + ">"},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    o.MaxBytes,
		Replicas:    max(o.Replicas, 1),
		Duplicates:  duplicateWindow,
		// Chunks that wait to be published share a commit, and so a sync.
		AllowAtomicPublish: true,
		// Reading goes to the leader: another server may not have a message yet.
		AllowDirect: false,
	}
}

func (o StreamOptions) dead() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        DeadStreamName,
		Description: "messages that no worker can ever save, with the reason",
		Subjects:    []string{deadSubjectPrefix + ">"},
		Storage:     jetstream.FileStorage,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    1 << 30,
		Replicas:    max(o.Replicas, 1),
		Duplicates:  duplicateWindow,
	}
}

// createLog makes the log if there is none, and leaves one that is there as it
// is: its settings are the workers' business.
func createLog(ctx context.Context, js jetstream.JetStream, opts StreamOptions) error {
	_, err := js.Stream(ctx, StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = js.CreateStream(ctx, opts.log())
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("create stream %s: %w", StreamName, err)
	}
	return nil
}

// setUp makes the streams and the workers' consumers, or brings them up to date.
// There is a consumer a lane.
func setUp(ctx context.Context, js jetstream.JetStream, opts StreamOptions, ackWait time.Duration) ([]jetstream.Consumer, error) {
	stream, err := setUpStream(ctx, js, opts.log())
	if err != nil {
		return nil, err
	}
	if _, err := setUpStream(ctx, js, opts.dead()); err != nil {
		return nil, err
	}
	consumers := make([]jetstream.Consumer, len(lanes))
	for i, lane := range lanes {
		if consumers[i], err = stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
			Durable:       consumerOf(lane),
			FilterSubject: subjectPrefix + lane + ".>",
			AckPolicy:     jetstream.AckExplicitPolicy,
			AckWait:       ackWait,
			MaxDeliver:    -1,
			// Above what all workers together may hold, or their gatherings stay small.
			MaxAckPending: 200_000,
		}); err != nil {
			return nil, fmt.Errorf("set up consumer %s: %w", consumerOf(lane), err)
		}
	}
	return consumers, nil
}

// setUpStream makes a stream, or changes it if it is another one than is wanted:
// most workers that start find it as it should be.
func setUpStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, want.Name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		stream, err = js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			stream, err = js.UpdateStream(ctx, want)
		}
	case err == nil && !isAsWanted(stream.CachedInfo().Config, want):
		stream, err = js.UpdateStream(ctx, want)
	}
	if err != nil {
		return nil, fmt.Errorf("set up stream %s: %w", want.Name, err)
	}
	return stream, nil
}

// isAsWanted compares what a worker sets.
func isAsWanted(have, want jetstream.StreamConfig) bool {
	return slices.Equal(have.Subjects, want.Subjects) && have.Retention == want.Retention && have.Discard == want.Discard &&
		have.MaxBytes == want.MaxBytes && have.Replicas == want.Replicas && have.Duplicates == want.Duplicates &&
		have.AllowAtomicPublish == want.AllowAtomicPublish && have.AllowDirect == want.AllowDirect && have.Description == want.Description
}

// Connect connects to NATS, at one URL or several separated by commas, and
// reconnects for as long as the connection is open. NATS need not be there yet.
func Connect(urls, name string, logger *zap.Logger) (*nats.Conn, error) {
	if logger == nil {
		logger = zap.NewNop()
	}
	nc, err := nats.Connect(urls,
		nats.Name(name),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250*time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 500*time.Millisecond),
		nats.PingInterval(5*time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(2*time.Second),
		// What can't be sent now fails now. Buffered until NATS is back it would
		// be published after its request was refused.
		nats.ReconnectBufSize(-1),
		// All who use the connection wait for a write, for a minute by default.
		nats.FlusherTimeout(5*time.Second),
		nats.ReconnectOnFlusherError(),
		// A server that is set up anew may refuse for a while. By default the
		// connection is closed for good when one does so twice.
		nats.IgnoreAuthErrorAbort(),
		nats.ConnectHandler(func(nc *nats.Conn) { logger.Info("connected to nats", zap.String("server", nc.ConnectedServerName())) }),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			logger.Info("reconnected to nats", zap.String("server", nc.ConnectedServerName()))
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				logger.Warn("lost nats, reconnecting", zap.Error(err))
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			logger.Warn("nats reported an error", zap.Error(err))
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return nc, nil
}
