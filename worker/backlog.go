package worker

import (
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"intake"
	"intake/internal/fair"
	"intake/worker/queue"
)

// A held message was fetched from the stream, and is neither acknowledged nor handed back yet. What was
// read from it is set before it is added to the backlog.
type held struct {
	msg      jetstream.Msg
	lane     string
	chunks   []*intake.Chunk
	reply    string
	delivery uint64
	items    int
	size     int // of the message and of what was read from it, in bytes of memory
}

// isSuspect reports whether the message was handed back so often that it may be one that cannot be saved.
// Such a message is saved apart from all others.
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

// Bounds of a gathering. Throughput levels off at a few thousand items per transaction, while latency
// keeps growing. Gatherings of the later lanes are smaller because a waiting batch that arrives
// meanwhile is held up by them.
var (
	gatheringBound      = size{5_000, 32 << 20}
	laterGatheringBound = size{1_000, 8 << 20}
)

// Bounds of the backlog, including what savers are working on: enough for the gatherings of two savers
// and another one. A later lane has at most one message beyond its bound, so that lanes take turns.
var (
	backlogBound = size{20_000, 72 << 20}
	laterBound   = size{6_000, 32 << 20}
	laneBound    = size{2_000, 8 << 20}
)

// maxMessage is about the maximum memory of a message and what is read from it, in bytes.
const maxMessage = 16 << 20

// MaxMemory is about the maximum memory of what a worker holds, in bytes: the bounds of the backlog, a fetch
// from the waiting lane, and one message that is being read.
const MaxMemory = (72+32)<<20 + prefetchBytes + maxMessage

// maxAhead is how many gatherings of the waiting lane are saved while later lanes have messages: then one of
// those follows.
const maxAhead = 4

// A backlog holds the messages that a worker has fetched.
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

// hold makes keepAlive keep a message alive that waits to be added, until it is released.
func (b *backlog) hold(h *held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held[h] = struct{}{}
	b.gauge.Set(float64(len(b.held)))
}

// reserve waits until there is room for a message of a later lane, whatever its size, and reserves it until
// unreserve. It reports whether it did: a closed backlog has no room.
func (b *backlog) reserve(lane string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	room := func() bool {
		return !b.sizes[lane].reaches(laneBound) &&
			b.late.items < laterBound.items && b.late.bytes+maxMessage <= laterBound.bytes
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

// hasRoom reports whether a message of the waiting lane may be added. One that exceeds the bound may be the
// only one.
func (b *backlog) hasRoom(h *held) bool {
	waiting := b.sizes[queue.WaitingLane]
	return waiting.items == 0 || !waiting.plus(h).exceeds(backlogBound)
}

// fill sets what was read from a held message.
func (b *backlog) fill(h *held, chunks []*intake.Chunk, reply string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h.chunks, h.reply, h.size = chunks, reply, len(h.msg.Data())
	for _, chunk := range chunks {
		h.items += chunk.Len
		h.size += queue.MemoryOf(chunk)
	}
}

// add adds a held message. It waits for room for one of the waiting lane; a later one has room reserved. A
// closed backlog hands the message back.
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

// nextGathering waits for messages and returns those that are to be saved in one transaction, or nil once the
// backlog is closed. The caller must release them.
func (b *backlog) nextGathering() []*held {
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

// fits reports whether a message may join a gathering of n messages.
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

// messages returns all messages that are held.
func (b *backlog) messages() []jetstream.Msg {
	b.mu.Lock()
	defer b.mu.Unlock()
	messages := make([]jetstream.Msg, 0, len(b.held))
	for h := range b.held {
		messages = append(messages, h.msg)
	}
	return messages
}

// close ends all waiting. From then on nothing is added, and there is no further gathering.
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

// handBack hands messages that no gathering has taken back to the stream, for other workers.
func (b *backlog) handBack() {
	b.mu.Lock()
	waiting := append(b.waiting, b.later.Drain()...)
	b.waiting = nil
	b.mu.Unlock()
	for _, h := range waiting {
		_ = h.msg.Nak() // if it gets lost, the message is delivered again after the ack wait
	}
	b.release(waiting)
}
