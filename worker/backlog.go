package worker

import (
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"intake"
)

// A held message was taken from the stream and is neither acknowledged nor
// handed back.
type held struct {
	msg      jetstream.Msg
	chunks   []*intake.Chunk
	reply    string
	delivery uint64
	items    int
	size     int // of the message and of what was read from it, in memory
}

// memoryOf tells about how many bytes a chunk takes that was read from a
// message. Compressed it may be a thousand times smaller.
func memoryOf(chunk *intake.Chunk) int {
	const client, claim, verdict = 112, 48, 40 // sizes of the structs
	n := 0
	for i := range chunk.Clients {
		c := &chunk.Clients[i]
		// readClients keeps what it was given, and a copy of it for the strings.
		n += client + 2*(len(c.ID)+len(c.EntityType)+len(c.OtherIdentifiers)) + (claim+claimSize)*len(c.Claims)
	}
	for i := range chunk.Rejected {
		n += verdict + len(chunk.Rejected[i].Text)
	}
	return n
}

// isSuspect tells of a message that was handed back again and again: it may be
// one that can't be saved, and so it is saved apart from all others.
func (h *held) isSuspect() bool { return h.delivery > 3 }

// Bounds of a gathering. Above a few thousand items a larger transaction saves
// no more of them a second; a large one makes its last comers wait.
const (
	gatheringItems = 5_000
	gatheringBytes = 32 << 20
)

// Bounds of the backlog, of what savers have taken too: with the gatherings of
// two savers, there is always another one at hand.
const (
	backlogItems = 20_000
	backlogBytes = 128 << 20
)

// MaxMemory is about what a worker holds at most, in bytes.
const MaxMemory = backlogBytes

// A backlog holds the messages that a worker has taken.
type backlog struct {
	gauge prometheus.Gauge

	mu      sync.Mutex
	changed *sync.Cond         // on mu
	waiting []*held            // in the order of the stream
	held    map[*held]struct{} // those waiting, and those in a gathering
	items   int                // of held
	bytes   int                // of held
	closed  bool
}

func newBacklog(gauge prometheus.Gauge) *backlog {
	b := &backlog{gauge: gauge, held: make(map[*held]struct{})}
	b.changed = sync.NewCond(&b.mu)
	return b
}

// add waits for room and adds a message. A closed backlog hands it back at once.
func (b *backlog) add(h *held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.closed && len(b.held) > 0 && (b.items+h.items > backlogItems || b.bytes+h.size > backlogBytes) {
		b.changed.Wait()
	}
	if b.closed {
		_ = h.msg.Nak()
		return
	}
	b.waiting = append(b.waiting, h)
	b.held[h] = struct{}{}
	b.items += h.items
	b.bytes += h.size
	b.gauge.Set(float64(len(b.held)))
	b.changed.Broadcast()
}

// take waits for messages and gives a gathering of those that are there; nil
// when the backlog is closed. It must be released.
func (b *backlog) take() []*held {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.closed && len(b.waiting) == 0 {
		b.changed.Wait()
	}
	if b.closed {
		return nil
	}
	n, items, bytes := 0, 0, 0
	for _, h := range b.waiting {
		items += h.items
		bytes += h.size
		if n > 0 && (items > gatheringItems || bytes > gatheringBytes || h.isSuspect()) {
			break
		}
		n++
		if h.isSuspect() {
			break
		}
	}
	gathering := append([]*held(nil), b.waiting[:n]...)
	clear(b.waiting[:n])
	b.waiting = b.waiting[n:]
	return gathering
}

// release forgets messages that were settled or handed back.
func (b *backlog) release(gathering []*held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range gathering {
		delete(b.held, h)
		b.items -= h.items
		b.bytes -= h.size
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
	waiting := b.waiting
	b.waiting = nil
	b.mu.Unlock()
	for _, h := range waiting {
		_ = h.msg.Nak() // unsent, it is delivered again after the ack wait
	}
	b.release(waiting)
}
