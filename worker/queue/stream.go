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
	StreamName     = "INTAKE"      // the log of batches
	DeadStreamName = "INTAKE_DEAD" // the dead letters

	SubjectPrefix     = "intake.batch."
	DeadSubjectPrefix = "intake.dead."
	outcomePrefix     = "intake.outcome."
)

// StreamOptions are the size and the replicas of the log.
type StreamOptions struct {
	// MaxBytes is the maximum size of the log, beyond which nothing is accepted. The default is 4 GiB.
	MaxBytes int64
	// Replicas is the minimum number of replicas in a cluster; a stream that has more keeps them. The
	// default is 1.
	Replicas int
	// AllowFewer permits fewer replicas where there are not enough servers. [New] sets it to
	// [Check.AllowUnsafe].
	AllowFewer bool
}

// duplicateWindow is how long JetStream recognises a message that is published again. It has to be well
// above PublishTimeout.
const duplicateWindow = 2 * time.Minute

// log is the stream that batches are queued in.
//
// Why a log, and not a work queue: messages stay after they are acknowledged, as LimitsPolicy says, until
// a worker purges them. So a status check can show a batch as it was sent, and what a data store has
// lost since its last backup can be saved again (worker.Recover). With WorkQueuePolicy JetStream would
// delete a message at its ack, and a filter of each consumer could not overlap another's. The price is
// that workers have to purge by themselves, and that a full log refuses batches even if some of them are
// processed; so workers keep half of it free.
//
// Why JetStream: an acknowledged publish is on disk, on all replicas of a quorum; a publish is repeated
// safely by its message ID; the messages of a batch are stored all or none; a server is one binary.
// Kafka would do the same with more to run. A table in Postgres would not: a batch has to be accepted
// while Postgres is down, and its inserts would compete with those of the records.
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
		// The chunks of a large batch are stored all or none.
		AllowAtomicPublish: true,
		// Read from the leader: another server may not have a message yet.
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

// createLog creates the log if there is none. It leaves an existing log as it is: workers set its options.
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

// createStream creates a stream. It fails in a cluster whose other servers are down. If several replicas
// are wanted and the server is in no cluster, the error is a [*safety.Breach].
func createStream(
	ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, allowFewer bool,
) (jetstream.Stream, error) {
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

// JetStream's codes when it refuses a number of replicas.
const (
	errNoCluster  jetstream.ErrorCode = 10074 // the server is in no cluster
	errNoPeers    jetstream.ErrorCode = 10005 // the cluster has too few servers
	errNoCapacity jetstream.ErrorCode = 10023 // or too few with room
)

// lacksServers reports whether JetStream refused replicas because it has too few servers for them.
func lacksServers(err error) bool { return isCode(err, errNoCluster, errNoPeers, errNoCapacity) }

func isCode(err error, codes ...jetstream.ErrorCode) bool {
	var answer jetstream.JetStreamError
	return errors.As(err, &answer) && answer.APIError() != nil && slices.Contains(codes, answer.APIError().ErrorCode)
}

func tooFewReplicas(have, want jetstream.StreamConfig, cause error) error {
	return &safety.Breach{
		Setting: "the number of replicas of stream " + want.Name,
		Is:      fmt.Sprintf("%d, not %d as --queue-replicas says", have.Replicas, want.Replicas),
		Because: fmt.Sprintf("a broken disk may lose batches that were answered 202 (NATS refuses to raise it: %v)",
			cause),
		Do: fmt.Sprintf("give the NATS cluster %d servers with JetStream and room, or set --queue-replicas=%d",
			want.Replicas, have.Replicas),
	}
}

// A LaneConsumer is the workers' consumer of one lane.
type LaneConsumer struct {
	Lane string
	jetstream.Consumer
}

// SetUp creates the streams and the workers' consumers, or brings them up to date. It returns a
// consumer for each lane, that of the waiting lane first.
func SetUp(
	ctx context.Context, js jetstream.JetStream, opts StreamOptions, ackWait time.Duration,
) ([]LaneConsumer, error) {
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
			// More than all workers hold together, or their gatherings would stay small.
			MaxAckPending: 200_000,
		})
		if err != nil {
			return nil, fmt.Errorf("set up consumer %s: %w", ConsumerName(lane), err)
		}
		consumers[i] = LaneConsumer{lane, consumer}
	}
	return consumers, nil
}

// setUpStream creates a stream, or changes it if it is not as wanted. Most workers find it as it should be.
func setUpStream(
	ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, allowFewer bool,
) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = createStream(ctx, js, want, allowFewer)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // somebody else has just created it
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

// changeStream changes a stream that is not as wanted. It never lowers the number of replicas.
func changeStream(
	ctx context.Context, js jetstream.JetStream, stream jetstream.Stream, want jetstream.StreamConfig, allowFewer bool,
) (jetstream.Stream, error) {
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

// isAsWanted reports whether a stream has all the settings that a worker sets.
func isAsWanted(have, want jetstream.StreamConfig) bool {
	return have.Description == want.Description && slices.Equal(have.Subjects, want.Subjects) &&
		have.Retention == want.Retention && have.Discard == want.Discard && have.MaxBytes == want.MaxBytes &&
		have.Replicas == want.Replicas && have.Duplicates == want.Duplicates &&
		have.AllowAtomicPublish == want.AllowAtomicPublish && have.AllowDirect == want.AllowDirect
}
