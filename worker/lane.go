package worker

import (
	"strconv"
	"strings"

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
	waitingLane = "waiting"
	// anyLater stands for all later lanes together.
	anyLater = "later"
)

// laterLanes is how many lanes the batches that nobody waits for are spread over,
// by partner. Each has a consumer of its own, so that a worker can take from them
// in turn. Partners are numbered as they are added: as long as there are no more
// of them than lanes, each has one for itself.
const laterLanes = 64

func laterLane(n int) string { return "later-" + strconv.Itoa(n) }

// nameOf gives the part of a subject that says in which lane a partner's batch is.
func (l Lane) nameOf(partner *intake.Partner) string {
	if l == Waiting {
		return waitingLane
	}
	return laterLane(int(uint32(partner.ID) % laterLanes))
}

// lanes are the names of all of them.
var lanes = func() []string {
	names := []string{waitingLane}
	for n := range laterLanes {
		names = append(names, laterLane(n))
	}
	return names
}()

// consumerOf names the consumer of a lane.
func consumerOf(lane string) string { return "worker-" + lane }

// laneOf gives the name of the lane in a message's subject.
func laneOf(subject string) string {
	lane, _, _ := strings.Cut(strings.TrimPrefix(subject, subjectPrefix), ".")
	return lane
}

// partnerOf gives the name of the partner in a message's subject.
func partnerOf(subject string) string {
	_, topic, _ := strings.Cut(strings.TrimPrefix(subject, subjectPrefix), ".")
	name, _, _ := strings.Cut(topic, ".")
	return name
}
