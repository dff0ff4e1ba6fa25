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

// A Lane says how soon a batch is saved.
//
// Why lanes: a stream is one line. A partner who queues a million items without waiting would stand
// in front of every client that waits, for minutes. JetStream has no priorities, and a stream for each
// lane would need a bound and a purge of its own, and a status check would have to search them all.
// So there is one stream with the lane in the subject, and a consumer for each lane, from which a
// worker fetches as it sees fit. Why one waiting lane and many
// later ones: clients that wait are bounded by their number and by the front's overload limit, so
// they share a lane in the order in which they came; nothing bounds what one partner may queue
// without waiting. The price is 65 consumers, and a look at each of them when a worker is idle.
type Lane uint8

const (
	// Waiting is for batches whose clients wait. They are saved ahead of others.
	Waiting Lane = iota
	// Later is for batches that nobody waits for. Those of one partner do not hold up those of
	// another.
	Later
)

// WaitingLane is the name of the waiting lane.
const WaitingLane = "waiting"

// laterLaneCount is the number of later lanes, over which partners are spread by their IDs. Partners
// are numbered as they are added, so each has a lane of its own while there are no more of them.
const laterLaneCount = 64

// Name returns the name of the lane that a partner's batches are in, as it stands in subjects.
func (l Lane) Name(partner *intake.Partner) string {
	if l == Waiting {
		return WaitingLane
	}
	return laterLane(int(uint32(partner.ID) % laterLaneCount))
}

func laterLane(n int) string { return "later-" + strconv.Itoa(n) }

// LaneNames returns the names of all lanes, the waiting one first.
func LaneNames() []string { return slices.Clone(lanes) }

var lanes = func() []string {
	names := []string{WaitingLane}
	for n := range laterLaneCount {
		names = append(names, laterLane(n))
	}
	return names
}()

// ConsumerName returns the name of a lane's consumer.
func ConsumerName(lane string) string { return "worker-" + lane }

// laneOf returns the name of the lane in a message's subject.
func laneOf(subject string) string {
	lane, _, _ := strings.Cut(strings.TrimPrefix(subject, SubjectPrefix), ".")
	return lane
}

// PartnerOf returns the name of the partner in a message's subject.
func PartnerOf(subject string) string {
	_, topic, _ := strings.Cut(strings.TrimPrefix(subject, SubjectPrefix), ".")
	name, _, _ := strings.Cut(topic, ".")
	return name
}

// LaneConsumers returns the consumers of all lanes, those of other versions included.
func LaneConsumers(ctx context.Context, stream jetstream.Stream) (consumers []*jetstream.ConsumerInfo, err error) {
	all := stream.ListConsumers(ctx)
	for info := range all.Info() {
		// Other consumers, such as that of a recovery, only read.
		if info.Config.AckPolicy == jetstream.AckExplicitPolicy {
			consumers = append(consumers, info)
		}
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("list the consumers of stream %s: %w", StreamName, err)
	}
	return consumers, nil
}
