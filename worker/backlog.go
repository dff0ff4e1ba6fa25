package worker

import (
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"intake"
	"intake/internal/fair"
	"intake/worker/queue"
)

// A held message was taken from the stream and is neither acknowledged nor
// handed back. What was read from it is there once it is in the backlog.
type held struct {
	msg      jetstream.Msg
	lane     string
	chunks   []*intake.Chunk
	reply    string
	delivery uint64
	items    int
	size     int // of the message and of what was read from it, in memory
}

// isSuspect tells of a message that was handed back again and again: it may be
// one that can't be saved, and so it is saved apart from all others.
func (h *held) isSuspect() bool { return h.delivery > 3 }

// A size is an amount of messages.
type size struct{ items, bytes int }

func (s size) plus(h *held) size  { return size{s.items + h.items, s.bytes + h.size} }
func (s size) minus(h *held) size { return size{s.items - h.items, s.bytes - h.size} }
func (s size) reaches(bound size) bool {
	return s.items >= bound.items || s.bytes >= bound.bytes
}
func (s size) exceeds(bound size) bool {
	return s.items > bound.items || s.bytes > bound.bytes
}

// Bounds of a gathering. Above a few thousand items a larger transaction saves
// no more of them a second; a large one makes its last comers wait. Who comes to
// wait while messages are saved that nobody waits for, waits for those.
var (
	gatheringBound      = size{5_000, 32 << 20}
	laterGatheringBound = size{1_000, 8 << 20}
)

// Bounds of the backlog, of what savers have taken too: with the gatherings of
// two savers, there is always another one at hand. Of a later lane there is one
// message more at hand at most, so that lanes can take turns.
var (
	backlogBound = size{20_000, 72 << 20}
	laterBound   = size{6_000, 32 << 20}
	laneBound    = size{2_000, 8 << 20}
)

// maxMessage is about what a message and what is read from it take at most, in bytes.
const maxMessage = 16 << 20

// MaxMemory is about what a worker holds at most, in bytes: the bounds of the backlog,
// and of the waiting lane what has come of a pull, with one message that was read.
const MaxMemory = (72+32)<<20 + prefetchBytes + maxMessage

// maxAhead is how many gatherings of messages that someone waits for may be saved
// while others are there: one in maxAhead+1 is theirs.
const maxAhead = 4

// A backlog holds the messages that a worker has taken.
type backlog struct {
	gauge prometheus.Gauge

	mu      sync.Mutex
	changed *sync.Cond                // on mu
	waiting []*held                   // of the waiting lane, in the order of the stream
	later   fair.Queue[string, *held] // by lane
	held    map[*held]struct{}        // those there, in a gathering, or about to be added
	sizes   map[string]size           // of those there and in a gathering, by lane
	late    size                      // of the later lanes' together, with what is reserved
	ahead   int                       // gatherings of waiting since the last one of later
	closed  bool
}

func newBacklog(gauge prometheus.Gauge) *backlog {
	b := &backlog{gauge: gauge, held: make(map[*held]struct{}), sizes: make(map[string]size)}
	b.changed = sync.NewCond(&b.mu)
	return b
}

// hold holds a message that waits to be added: it is kept alive until it is released.
func (b *backlog) hold(h *held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held[h] = struct{}{}
	b.gauge.Set(float64(len(b.held)))
}

// reserve waits until there is room for a message of a later lane, whatever its size,
// and sets it aside until unreserve. It reports whether it has: a closed backlog has no
// room.
func (b *backlog) reserve(lane string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	room := func() bool {
		return !b.sizes[lane].reaches(laneBound) && b.late.items < laterBound.items && b.late.bytes+maxMessage <= laterBound.bytes
	}
	for !b.closed && !room() {
		b.changed.Wait()
	}
	if b.closed {
		return false
	}
	b.late.bytes += maxMessage
	return true
}

func (b *backlog) unreserve() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.late.bytes -= maxMessage
	b.changed.Broadcast()
}

// hasRoom reports whether a message of the waiting lane may be added. One that is
// larger than the bound may be there by itself.
func (b *backlog) hasRoom(h *held) bool {
	waiting := b.sizes[queue.WaitingLane]
	return waiting.items == 0 || !waiting.plus(h).exceeds(backlogBound)
}

// fill puts what was read from a message that is held into it.
func (b *backlog) fill(h *held, chunks []*intake.Chunk, reply string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h.chunks, h.reply, h.size = chunks, reply, len(h.msg.Data())
	for _, chunk := range chunks {
		h.items += chunk.Len
		h.size += queue.MemoryOf(chunk)
	}
}

// add adds a message that is held. One of the waiting lane waits for room; for the
// others it was reserved. A closed backlog hands it back at once.
func (b *backlog) add(h *held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.closed && h.lane == queue.WaitingLane && !b.hasRoom(h) {
		b.changed.Wait()
	}
	if b.closed {
		_ = h.msg.Nak()
		delete(b.held, h)
		return
	}
	if h.lane == queue.WaitingLane {
		b.waiting = append(b.waiting, h)
	} else {
		b.later.Add(h.lane, h)
		b.late = b.late.plus(h)
	}
	b.sizes[h.lane] = b.sizes[h.lane].plus(h)
	b.changed.Broadcast()
}

// take waits for messages and gives a gathering of those that are there; nil
// when the backlog is closed. It must be released.
func (b *backlog) take() []*held {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.closed && len(b.waiting) == 0 && b.later.IsEmpty() {
		b.changed.Wait()
	}
	switch {
	case b.closed:
		return nil
	case len(b.waiting) == 0 || b.ahead >= maxAhead && !b.later.IsEmpty():
		b.ahead = 0
		return b.gatherLater()
	case !b.later.IsEmpty():
		b.ahead++
	}
	return b.gatherWaiting()
}

func (b *backlog) gatherWaiting() []*held {
	n, sum := 0, size{}
	for n < len(b.waiting) && fits(sum, n, b.waiting[n], gatheringBound) {
		sum = sum.plus(b.waiting[n])
		n++
		if b.waiting[n-1].isSuspect() {
			break
		}
	}
	gathering := append([]*held(nil), b.waiting[:n]...)
	clear(b.waiting[:n])
	b.waiting = b.waiting[n:]
	return gathering
}

// gatherLater gathers a message of each lane in turn.
func (b *backlog) gatherLater() (gathering []*held) {
	var sum size
	for !b.later.IsEmpty() {
		h := b.later.Next()[0]
		if !fits(sum, len(gathering), h, laterGatheringBound) {
			break
		}
		sum = sum.plus(h)
		gathering = append(gathering, b.later.Pop(1)...)
		if h.isSuspect() {
			break
		}
	}
	return gathering
}

// fits tells whether a message may join a gathering of n.
func fits(sum size, n int, h *held, bound size) bool {
	return n == 0 || !h.isSuspect() && !sum.plus(h).exceeds(bound)
}

// release forgets messages that were settled or handed back.
func (b *backlog) release(gathering []*held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range gathering {
		delete(b.held, h)
		b.sizes[h.lane] = b.sizes[h.lane].minus(h)
		if h.lane != queue.WaitingLane {
			b.late = b.late.minus(h)
		}
	}
	b.gauge.Set(float64(len(b.held)))
	b.changed.Broadcast()
}

// messages gives all messages that are held.
func (b *backlog) messages() []jetstream.Msg {
	b.mu.Lock()
	defer b.mu.Unlock()
	messages := make([]jetstream.Msg, 0, len(b.held))
	for h := range b.held {
		messages = append(messages, h.msg)
	}
	return messages
}

// close ends all waiting. Nothing is added or taken any more.
func (b *backlog) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.changed.Broadcast()
}

func (b *backlog) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// handBack hands what was never taken back to the stream, for other workers.
func (b *backlog) handBack() {
	b.mu.Lock()
	waiting := append(b.waiting, b.later.Drain()...)
	b.waiting = nil
	b.mu.Unlock()
	for _, h := range waiting {
		_ = h.msg.Nak() // unsent, it is delivered again after the ack wait
	}
	b.release(waiting)
}
