package front

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"intake"
	"intake/worker"
)

// memoryFactor is how much memory a request needs for each byte of its body: the
// body, what is decoded of it, and the messages that it is queued in. Measured
// on bodies of clients with a year of months it is 1.5; the messages of a body
// that can't be compressed are as large as itself.
const memoryFactor = 3

// itemBytes is what an item takes beside its part of the body: an intake.Item, a
// verdict, an entry in the map of keys.
const itemBytes = 256

// minInflightBytes is room for one request of the largest kind: a body of full
// size, with as much text on what is wrong with it as there can be.
const minInflightBytes = memoryFactor*intake.MaxBodyBytes + 2*(64<<20)

// questionBytes is what a question takes for being in, whatever it asks for.
const questionBytes = minBodyBuffer

// minQuestionBytes is room for one question of the largest kind: the status of a
// batch of full size, with as much text on what is wrong with it as there can be.
const minQuestionBytes = intake.MaxBodyBytes + 64<<20 + 2*worker.LargestMessage

// QuestionBytes returns how much memory questions may take beside the
// MaxInflightBytes of batches: an eighth of that, and room for the largest.
func QuestionBytes(maxInflightBytes int64) int64 { return max(maxInflightBytes/8, minQuestionBytes) }

// A budget bounds the memory of all requests together. Nobody waits for it:
// what doesn't fit is refused, and may come again later. The last eighth of it is
// not for bodies, so that a body is rather refused before it is read than after;
// and streams have no more than a quarter of it for being open, so that those of
// which nothing comes leave room for requests.
type budget struct {
	limit   int64
	used    atomic.Int64
	streams atomic.Int64 // of used
	gauge   prometheus.Gauge
}

func (b *budget) bodies() int64 { return b.limit - b.limit/8 }

// A share is what one request has of the budget.
type share struct {
	budget *budget
	body   int64 // bytes of the body that it is large enough for
	stream int64 // of held, for a stream to be open
	held   int64
}

// grow makes the share large enough for a body of so many bytes, unless there
// isn't that much left.
func (s *share) grow(body int64) bool {
	body = min(body, intake.MaxBodyBytes)
	if body <= s.body {
		return true
	}
	if !s.addUpTo((body-s.body)*memoryFactor, s.budget.bodies()) {
		return false
	}
	s.body = body
	return true
}

// fits tells whether it could grow for a body of so many bytes now.
func (s *share) fits(body int64) bool {
	body = min(body, intake.MaxBodyBytes)
	return body <= s.body || s.budget.used.Load()+(body-s.body)*memoryFactor <= s.budget.bodies()
}

// addItems makes the share large enough for what items take beside the body
// that they are in: a body can hold many that are small, or invalid in many
// ways. A text counts twice, for it is in the answer as well.
func (s *share) addItems(items []intake.Item) bool {
	bytes := int64(len(items)) * itemBytes
	for i := range items {
		bytes += 2 * int64(len(items[i].Errors))
	}
	return s.add(bytes)
}

// openStream adds what a stream takes for being open.
func (s *share) openStream(bytes int64) bool {
	if s.budget.streams.Add(bytes) > s.budget.limit/4 || !s.add(bytes) {
		s.budget.streams.Add(-bytes)
		return false
	}
	s.stream += bytes
	return true
}

func (s *share) add(bytes int64) bool { return s.addUpTo(bytes, s.budget.limit) }

func (s *share) addUpTo(bytes, limit int64) bool {
	b := s.budget
	if b.used.Add(bytes) > limit {
		b.used.Add(-bytes)
		return false
	}
	s.held += bytes
	b.gauge.Set(float64(b.used.Load()))
	return true
}

// keepBody gives back what a request needs beside its body until it is queued.
func (s *share) keepBody() { s.giveBack(s.body * (memoryFactor - 1)) }

// keep gives back all but so many bytes.
func (s *share) keep(bytes int64) { s.giveBack(max(s.held-bytes, 0)) }

func (s *share) giveBack(bytes int64) {
	s.held -= bytes
	s.budget.gauge.Set(float64(s.budget.used.Add(-bytes)))
}

// moveTo leaves the budget and takes so many bytes of another, unless there isn't
// that much.
func (s *share) moveTo(b *budget, bytes int64) bool {
	moved := share{budget: b}
	if !moved.add(bytes) {
		return false
	}
	s.release()
	*s = moved
	return true
}

func (s *share) release() {
	s.budget.streams.Add(-s.stream)
	s.budget.gauge.Set(float64(s.budget.used.Add(-s.held)))
	s.body, s.stream, s.held = 0, 0, 0
}

// roomPatience is how long one waits for room in memory who can.
const roomPatience = 10 * time.Second

// waitRoom waits until a share has got what it needs, or until ctx ends.
func waitRoom(ctx context.Context, got func() bool) bool {
	for until := time.Now().Add(roomPatience); !got(); {
		if time.Now().After(until) {
			return false
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return false
		}
	}
	return true
}
