package front

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"intake"
	"intake/worker/queue"
)

// memoryFactor is how much memory a request needs for each byte of its body: for the
// body, what is decoded of it, and the messages that it is queued in. Measured on clients
// with a year of months it is 1.5; the messages of a body that can't be compressed are as
// large as the body.
const memoryFactor = 3

// itemBytes is what an item takes beside its part of the body: an intake.Item, a verdict,
// an entry in the map of keys.
const itemBytes = 256

// minInflightBytes is room for one request of the largest kind: a body of full size, with
// as much text on what is wrong with it as there can be.
const minInflightBytes = memoryFactor*intake.MaxBodyBytes + 2*(64<<20)

// partnerPart is how many times what stays free one partner may hold of the budget: three
// quarters of the budget when no other partner holds any, 3/7 each when two take what they
// can get, and always less than is left for the next one.
const partnerPart = 3

// questionBytes is what a question takes whatever it asks for.
const questionBytes = minBodyBuffer

// minQuestionBytes is room for one question of the largest kind: the status of a batch of
// full size, with as much text on what is wrong with it as there can be.
const minQuestionBytes = intake.MaxBodyBytes + 64<<20 + 2*queue.LargestMessage

// QuestionBytes returns how much memory questions may take beside the MaxInflightBytes of
// batches: an eighth of that, and at least room for the largest question.
func QuestionBytes(maxInflightBytes int64) int64 { return max(maxInflightBytes/8, minQuestionBytes) }

// A budget bounds the memory of all batches together, or of all questions. What doesn't
// fit is refused, and may come again later.
//
//   - The last eighth is not for bodies, so that a body is refused before it is read
//     rather than after.
//   - Open streams have no more than a quarter for being open, so that idle ones leave
//     room for requests.
//   - A partner may hold only a part of each (see partnerPart), except that its only
//     request may hold all that is free: the largest one needs minInflightBytes.
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

// memoryOf returns memory for a request of a partner, which holds nothing yet.
func (b *budget) memoryOf(partner int32) *memory { return &memory{budget: b, partner: partner} }

// isFair reports whether a partner may hold this many bytes when all partners together
// hold used of limit.
func isFair(partner, used, limit int64) bool { return partner <= partnerPart*(limit-used) }

// hasRoom reports whether m may hold bytes more. It must be called with mu held.
func (b *budget) hasRoom(m *memory, bytes, limit int64) bool {
	used, partner := b.all.bytes+bytes, b.partners[m.partner].bytes+bytes
	return used <= limit && (partner == m.held+bytes || isFair(partner, used, limit))
}

// add adds to what m holds; less than zero takes away. It must be called with mu held.
func (b *budget) add(m *memory, bytes, streams int64) {
	m.held += bytes
	m.stream += streams
	b.all.bytes += bytes
	b.all.streams += streams
	partner := b.partners[m.partner]
	partner.bytes += bytes
	partner.streams += streams
	if partner == (holding{}) {
		delete(b.partners, m.partner)
	} else {
		b.partners[m.partner] = partner
	}
	b.gauge.Set(float64(b.all.bytes))
}

// A memory is what one request holds of a budget, in bytes.
type memory struct {
	budget  *budget
	partner int32
	body    int64 // the body that there is room for
	held    int64
	stream  int64 // of held, for a stream to be open
}

// grow makes room for a body of this many bytes. It reports false if there isn't that much
// left.
func (m *memory) grow(body int64) bool {
	body = min(body, intake.MaxBodyBytes)
	if body <= m.body {
		return true
	}
	if !m.addUpTo((body-m.body)*memoryFactor, m.budget.bodies()) {
		return false
	}
	m.body = body
	return true
}

// fits reports whether there is room for a body of this many bytes now.
func (m *memory) fits(body int64) bool {
	body = min(body, intake.MaxBodyBytes)
	m.budget.mu.Lock()
	defer m.budget.mu.Unlock()
	return body <= m.body || m.budget.hasRoom(m, (body-m.body)*memoryFactor, m.budget.bodies())
}

// addItems adds what items take beside their body, which can hold many that are small or
// invalid in many ways. A text on what is wrong counts twice: it is in the answer too.
func (m *memory) addItems(items []intake.Item) bool {
	bytes := int64(len(items)) * itemBytes
	for i := range items {
		bytes += 2 * int64(len(items[i].Errors))
	}
	return m.add(bytes)
}

// openStream adds what a stream takes for being open.
func (m *memory) openStream(bytes int64) bool {
	b := m.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	streams, partner := b.all.streams+bytes, b.partners[m.partner].streams+bytes
	if streams > b.limit/4 || !isFair(partner, streams, b.limit/4) || !b.hasRoom(m, bytes, b.limit) {
		return false
	}
	b.add(m, bytes, bytes)
	return true
}

func (m *memory) add(bytes int64) bool { return m.addUpTo(bytes, m.budget.limit) }

func (m *memory) addUpTo(bytes, limit int64) bool {
	m.budget.mu.Lock()
	defer m.budget.mu.Unlock()
	if !m.budget.hasRoom(m, bytes, limit) {
		return false
	}
	m.budget.add(m, bytes, 0)
	return true
}

// addPiece adds a piece of an answer. It counts for the partner, and is not refused for
// what the partner holds: what the answer is made of is given back for it.
func (m *memory) addPiece() bool {
	m.budget.mu.Lock()
	defer m.budget.mu.Unlock()
	if m.budget.all.bytes+answerPiece > m.budget.limit {
		return false
	}
	m.budget.add(m, answerPiece, 0)
	return true
}

// keepBody frees what a request needs only until it is queued.
func (m *memory) keepBody() { m.giveBack(m.body * (memoryFactor - 1)) }

// keep frees all but this many bytes.
func (m *memory) keep(bytes int64) { m.giveBack(max(m.held-bytes, 0)) }

func (m *memory) giveBack(bytes int64) {
	m.budget.mu.Lock()
	defer m.budget.mu.Unlock()
	m.budget.add(m, -bytes, 0)
}

// moveTo frees everything and takes bytes of another budget. It reports false, and
// keeps what it holds, if that has not that much.
func (m *memory) moveTo(b *budget, bytes int64) bool {
	moved := b.memoryOf(m.partner)
	if !moved.add(bytes) {
		return false
	}
	m.release()
	*m = *moved
	return true
}

// release frees everything.
func (m *memory) release() {
	m.budget.mu.Lock()
	defer m.budget.mu.Unlock()
	m.budget.add(m, -m.held, -m.stream)
	m.body = 0
}

// roomPatience is how long callers that can wait do so for memory before they are refused.
const roomPatience = 10 * time.Second

// waitRoom tries to get memory until it succeeds, roomPatience is over or ctx ends.
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
