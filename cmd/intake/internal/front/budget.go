package front

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"intake"
	"intake/worker/queue"
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

// partnerPart is how many times as much as stays free a partner may have of the
// budget: three quarters of it when no other partner has any, 3/7 each when two take
// what they can get, and always less than there is for the next one.
const partnerPart = 3

// questionBytes is what a question takes for being in, whatever it asks for.
const questionBytes = minBodyBuffer

// minQuestionBytes is room for one question of the largest kind: the status of a
// batch of full size, with as much text on what is wrong with it as there can be.
const minQuestionBytes = intake.MaxBodyBytes + 64<<20 + 2*queue.LargestMessage

// QuestionBytes returns how much memory questions may take beside the
// MaxInflightBytes of batches: an eighth of that, and room for the largest.
func QuestionBytes(maxInflightBytes int64) int64 { return max(maxInflightBytes/8, minQuestionBytes) }

// A budget bounds the memory of all batches together, or of all questions. Nobody waits for it:
// what doesn't fit is refused, and may come again later. The last eighth of it is
// not for bodies, so that a body is rather refused before it is read than after;
// and streams have no more than a quarter of it for being open, so that those of
// which nothing comes leave room for requests. A partner may have only a part of each
// (see partnerPart), except that the only request of a partner may have all that is
// free: one of the largest kind needs a budget of minInflightBytes whole.
type budget struct {
	limit int64
	gauge prometheus.Gauge

	mu       sync.Mutex
	all      holding           // guarded by mu
	partners map[int32]holding // guarded by mu; of those that hold anything
}

// A holding is what is held of a budget, in bytes.
type holding struct {
	bytes   int64
	streams int64 // of bytes, for streams to be open
}

func newBudget(limit int64, gauge prometheus.Gauge) *budget {
	return &budget{limit: limit, gauge: gauge, partners: make(map[int32]holding)}
}

func (b *budget) bodies() int64 { return b.limit - b.limit/8 }

// share returns a share of a partner's, of nothing yet.
func (b *budget) share(partner int32) *share { return &share{budget: b, partner: partner} }

// isFair reports whether a partner may have so many bytes of the budget when all
// partners together have used of limit.
func isFair(partner, used, limit int64) bool { return partner <= partnerPart*(limit-used) }

// hasRoom must be called with mu held.
func (b *budget) hasRoom(s *share, bytes, limit int64) bool {
	used, partner := b.all.bytes+bytes, b.partners[s.partner].bytes+bytes
	return used <= limit && (partner == s.held+bytes || isFair(partner, used, limit))
}

// add adds to what a share has, or takes from it. It must be called with mu held.
func (b *budget) add(s *share, bytes, streams int64) {
	s.held += bytes
	s.stream += streams
	b.all.bytes += bytes
	b.all.streams += streams
	partner := b.partners[s.partner]
	partner.bytes += bytes
	partner.streams += streams
	if partner == (holding{}) {
		delete(b.partners, s.partner)
	} else {
		b.partners[s.partner] = partner
	}
	b.gauge.Set(float64(b.all.bytes))
}

// A share is what one request has of the budget.
type share struct {
	budget  *budget
	partner int32
	body    int64 // bytes of the body that it is large enough for
	held    int64
	stream  int64 // of held, for a stream to be open
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

// fits reports whether it could grow for a body of so many bytes now.
func (s *share) fits(body int64) bool {
	body = min(body, intake.MaxBodyBytes)
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	return body <= s.body || s.budget.hasRoom(s, (body-s.body)*memoryFactor, s.budget.bodies())
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
	b := s.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	streams, partner := b.all.streams+bytes, b.partners[s.partner].streams+bytes
	if streams > b.limit/4 || !isFair(partner, streams, b.limit/4) || !b.hasRoom(s, bytes, b.limit) {
		return false
	}
	b.add(s, bytes, bytes)
	return true
}

func (s *share) add(bytes int64) bool { return s.addUpTo(bytes, s.budget.limit) }

func (s *share) addUpTo(bytes, limit int64) bool {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	if !s.budget.hasRoom(s, bytes, limit) {
		return false
	}
	s.budget.add(s, bytes, 0)
	return true
}

// addPiece adds a piece of an answer. It counts for the partner, and is not refused
// for that: what the answer is made of is given back in its place.
func (s *share) addPiece() bool {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	if s.budget.all.bytes+answerPiece > s.budget.limit {
		return false
	}
	s.budget.add(s, answerPiece, 0)
	return true
}

// keepBody gives back what a request needs beside its body until it is queued.
func (s *share) keepBody() { s.giveBack(s.body * (memoryFactor - 1)) }

// keep returns all but so many bytes to the budget.
func (s *share) keep(bytes int64) { s.giveBack(max(s.held-bytes, 0)) }

func (s *share) giveBack(bytes int64) {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.budget.add(s, -bytes, 0)
}

// moveTo leaves the budget and takes so many bytes of another, unless there isn't
// that much.
func (s *share) moveTo(b *budget, bytes int64) bool {
	moved := b.share(s.partner)
	if !moved.add(bytes) {
		return false
	}
	s.release()
	*s = *moved
	return true
}

// release returns everything to the budget.
func (s *share) release() {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.budget.add(s, -s.held, -s.stream)
	s.body = 0
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
