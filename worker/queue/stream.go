// Package worker is the queue between the fronts and the data store, and the
// worker that empties it.
//
// A front submits a batch to its Queue, which publishes it, cut into chunks, to
// a JetStream stream and hears of their outcomes. A Worker takes what has
// gathered there, has it saved in one transaction, and only then acknowledges
// it. The stream is a log: what was processed stays in it for a while.
package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"intake/internal/safety"
)

// Names in JetStream.
const (
	StreamName     = "INTAKE"
	DeadStreamName = "INTAKE_DEAD"

	SubjectPrefix     = "intake.batch."
	DeadSubjectPrefix = "intake.dead."
	outcomePrefix     = "intake.outcome."
)

// StreamOptions are how much the log holds, and how often.
type StreamOptions struct {
	// MaxBytes bounds the log; beyond it nothing is accepted. 4 GiB when zero.
	MaxBytes int64
	// Replicas in a cluster, at least: a stream that has more keeps them. 1 when zero.
	Replicas int
	// AllowFewer has a stream made, or left, with fewer replicas where there are
	// not servers enough.
	AllowFewer bool
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
		Subjects:    []string{SubjectPrefix + ">"},
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
		Subjects:    []string{DeadSubjectPrefix + ">"},
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
		_, err = createStream(ctx, js, opts.log(), opts.AllowFewer)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("create stream %s: %w", StreamName, err)
	}
	return nil
}

// createStream makes a stream. In a cluster whose other servers are away it fails;
// a server that is in no cluster is a *safety.Breach, if several are wanted.
func createStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, allowFewer bool) (jetstream.Stream, error) {
	stream, err := js.CreateStream(ctx, want)
	if !isCode(err, errNoCluster) {
		return stream, err
	}
	one := want
	one.Replicas = 1
	if !allowFewer {
		return nil, tooFewReplicas(one, want, err)
	}
	return js.CreateStream(ctx, one)
}

// Codes of JetStream's refusals to have so many replicas.
const (
	errNoCluster  jetstream.ErrorCode = 10074 // the server is in none
	errNoPeers    jetstream.ErrorCode = 10005 // not servers enough in the cluster
	errNoCapacity jetstream.ErrorCode = 10023 // or without the room
)

// lacksServers tells whether JetStream refused more replicas than it has servers for.
func lacksServers(err error) bool { return isCode(err, errNoCluster, errNoPeers, errNoCapacity) }

func isCode(err error, codes ...jetstream.ErrorCode) bool {
	var answer jetstream.JetStreamError
	return errors.As(err, &answer) && answer.APIError() != nil && slices.Contains(codes, answer.APIError().ErrorCode)
}

func tooFewReplicas(have, want jetstream.StreamConfig, cause error) error {
	return &safety.Breach{Setting: "the number of replicas of stream " + want.Name, Is: fmt.Sprintf("%d, not %d as --queue-replicas says", have.Replicas, want.Replicas),
		Because: fmt.Sprintf("the loss of a disk may take batches that were answered 202 (NATS refuses to raise it: %v)", cause),
		Do:      fmt.Sprintf("see that the NATS cluster has %d servers with JetStream and room, or set --queue-replicas=%d", want.Replicas, have.Replicas)}
}

// A LaneConsumer is the workers' consumer of one lane.
type LaneConsumer struct {
	Lane string
	jetstream.Consumer
}

// SetUp creates the streams and the workers' consumers, or brings them up to date. It returns a
// consumer for each lane, that of the waiting lane first.
func SetUp(ctx context.Context, js jetstream.JetStream, opts StreamOptions, ackWait time.Duration) ([]LaneConsumer, error) {
	stream, err := setUpStream(ctx, js, opts.log(), opts.AllowFewer)
	if err != nil {
		return nil, err
	}
	if _, err := setUpStream(ctx, js, opts.dead(), opts.AllowFewer); err != nil {
		return nil, err
	}
	consumers := make([]LaneConsumer, len(lanes))
	for i, lane := range lanes {
		consumer, err := stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
			Durable:       ConsumerName(lane),
			FilterSubject: SubjectPrefix + lane + ".>",
			AckPolicy:     jetstream.AckExplicitPolicy,
			AckWait:       ackWait,
			MaxDeliver:    -1,
			// Above what all workers together may hold, or their gatherings stay small.
			MaxAckPending: 200_000,
		})
		if err != nil {
			return nil, fmt.Errorf("set up consumer %s: %w", ConsumerName(lane), err)
		}
		consumers[i] = LaneConsumer{lane, consumer}
	}
	return consumers, nil
}

// setUpStream makes a stream, or changes it if it is another one than is wanted:
// most workers that start find it as it should be.
func setUpStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, allowFewer bool) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = createStream(ctx, js, want, allowFewer)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another one has made it
			stream, err = js.Stream(ctx, want.Name)
		}
	}
	if err == nil {
		stream, err = changeStream(ctx, js, stream, want, allowFewer)
	}
	if err != nil {
		return nil, fmt.Errorf("set up stream %s: %w", want.Name, err)
	}
	return stream, nil
}

// changeStream makes a stream the one that is wanted, if it is another one. It
// never lowers its replicas.
func changeStream(ctx context.Context, js jetstream.JetStream, stream jetstream.Stream, want jetstream.StreamConfig, allowFewer bool) (jetstream.Stream, error) {
	have := stream.CachedInfo().Config
	want.Replicas = max(want.Replicas, have.Replicas)
	if isAsWanted(have, want) {
		return stream, nil
	}
	changed, err := js.UpdateStream(ctx, want)
	if have.Replicas == want.Replicas || !lacksServers(err) {
		return changed, err
	}
	if !allowFewer {
		return nil, tooFewReplicas(have, want, err)
	}
	want.Replicas = have.Replicas
	if isAsWanted(have, want) {
		return stream, nil
	}
	return js.UpdateStream(ctx, want)
}

// isAsWanted compares what a worker sets.
func isAsWanted(have, want jetstream.StreamConfig) bool {
	return slices.Equal(have.Subjects, want.Subjects) && have.Retention == want.Retention && have.Discard == want.Discard &&
		have.MaxBytes == want.MaxBytes && have.Replicas == want.Replicas && have.Duplicates == want.Duplicates &&
		have.AllowAtomicPublish == want.AllowAtomicPublish && have.AllowDirect == want.AllowDirect && have.Description == want.Description
}
