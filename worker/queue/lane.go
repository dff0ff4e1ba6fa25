package queue

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"intake"
)

// A Lane tells how soon a batch is saved.
type Lane uint8

const (
	// Waiting is for batches whose requests wait: they are saved ahead of others.
	Waiting Lane = iota
	// Later is for batches that nobody waits for. Those of one partner don't hold
	// up those of another.
	Later
)

const (
	WaitingLane = "waiting"
)

// laterLaneCount is how many lanes the batches that nobody waits for are spread over,
// by partner. Each has a consumer of its own, so that a worker can take from them
// in turn. Partners are numbered as they are added: as long as there are no more
// of them than lanes, each has one for itself.
const laterLaneCount = 64

func laterLane(n int) string { return "later-" + strconv.Itoa(n) }

// nameOf gives the part of a subject that says in which lane a partner's batch is.
func (l Lane) Name(partner *intake.Partner) string {
	if l == Waiting {
		return WaitingLane
	}
	return laterLane(int(uint32(partner.ID) % laterLaneCount))
}

// LaneNames returns the names of all lanes, the waiting one first.
func LaneNames() []string { return slices.Clone(lanes) }

var lanes = func() []string {
	names := []string{WaitingLane}
	for n := range laterLaneCount {
		names = append(names, laterLane(n))
	}
	return names
}()

// consumerOf names the consumer of a lane.
func ConsumerName(lane string) string { return "worker-" + lane }

// laneOf gives the name of the lane in a message's subject.
func laneOf(subject string) string {
	lane, _, _ := strings.Cut(strings.TrimPrefix(subject, SubjectPrefix), ".")
	return lane
}

// partnerOf gives the name of the partner in a message's subject.
func PartnerOf(subject string) string {
	_, topic, _ := strings.Cut(strings.TrimPrefix(subject, SubjectPrefix), ".")
	name, _, _ := strings.Cut(topic, ".")
	return name
}

// laneConsumers returns the consumers of all lanes, of this and of other versions.
func LaneConsumers(ctx context.Context, stream jetstream.Stream) (consumers []*jetstream.ConsumerInfo, err error) {
	all := stream.ListConsumers(ctx)
	for info := range all.Info() {
		// Others, as that of Recover, only read.
		if info.Config.AckPolicy == jetstream.AckExplicitPolicy {
			consumers = append(consumers, info)
		}
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("list the consumers of stream %s: %w", StreamName, err)
	}
	return consumers, nil
}
