package worker

import (
	"sync"
	"time"

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

// A gathering below smallBound in items and bytes is small: saving it takes hardly longer than committing
// it. While one is being saved, what has come waits for its end rather than be saved beside it, so that more
// share the next transaction, but for shareTime at most: the one under way may be stuck.
var smallBound = size{250, 512 << 10}

const shareTime = 50 * time.Millisecond

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
	gauge     prometheus.Gauge
	shareTime time.Duration // the constant of this name, other than in tests

	mu      sync.Mutex
	room    *sync.Cond                // on mu: something was released
	work    *sync.Cond                // on mu: there may be a gathering for a saver
	waiting []*held                   // of the waiting lane, in the order of the stream
	later   fair.Queue[string, *held] // by lane
	held    map[*held]struct{}        // those there, in a gathering, or about to be added
	sizes   map[string]size           // of those there and in a gathering, by lane
	late    size                      // of the later lanes' together, with what is reserved
	ahead   int                       // gatherings of waiting since the last one of later
	closed  bool

	queued size        // of those in waiting and later
	small  *held       // the first message of the small gathering that others wait for; nil if there is none
	share  *time.Timer // ends that wait
}

func newBacklog(gauge prometheus.Gauge) *backlog {
	b := &backlog{gauge: gauge, shareTime: shareTime, held: make(map[*held]struct{}), sizes: make(map[string]size)}
	b.room, b.work = sync.NewCond(&b.mu), sync.NewCond(&b.mu)
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
		b.room.Wait()
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
	b.room.Broadcast()
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
		b.room.Wait()
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
	b.queued = b.queued.plus(h)
	b.signal()
}

// nextGathering waits for messages and returns those that are to be saved in one transaction, or nil once the
// backlog is closed. The caller must say when they are committed, and release them.
func (b *backlog) nextGathering() (gathering []*held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.closed && !b.hasGathering() {
		b.work.Wait()
	}
	switch {
	case b.closed:
		return nil
	case len(b.waiting) == 0 || b.ahead >= maxAhead && !b.later.IsEmpty():
		b.ahead = 0
		gathering = b.gatherLater()
	case !b.later.IsEmpty():
		b.ahead++
		fallthrough
	default:
		gathering = b.gatherWaiting()
	}
	var sum size
	for _, h := range gathering {
		sum = sum.plus(h)
		b.queued = b.queued.minus(h)
	}
	if !sum.reaches(smallBound) {
		b.shareAfter(gathering)
	}
	b.signal()
	return gathering
}

// hasGathering reports whether there is enough for a transaction beside those under way.
func (b *backlog) hasGathering() bool {
	some := len(b.waiting) > 0 || !b.later.IsEmpty()
	return some && (b.small == nil || b.queued.reaches(smallBound))
}

// signal wakes a saver up if there is enough for a transaction.
func (b *backlog) signal() {
	if b.hasGathering() {
		b.work.Signal()
	}
}

// shareAfter lets what comes share the transaction after that of a small gathering.
func (b *backlog) shareAfter(gathering []*held) {
	if b.share != nil {
		b.share.Stop()
	}
	b.small = gathering[0]
	b.share = time.AfterFunc(b.shareTime, func() { b.committed(gathering) })
}

// committed ends the wait for a gathering, if it is the one that others wait for.
func (b *backlog) committed(gathering []*held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.small == gathering[0] {
		b.small = nil
		b.share.Stop()
		b.signal()
	}
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
		if b.small == h {
			b.small = nil
			b.share.Stop()
		}
		delete(b.held, h)
		b.sizes[h.lane] = b.sizes[h.lane].minus(h)
		if h.lane != queue.WaitingLane {
			b.late = b.late.minus(h)
		}
	}
	b.gauge.Set(float64(len(b.held)))
	b.room.Broadcast()
	b.signal()
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
	b.room.Broadcast()
	b.work.Broadcast()
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
