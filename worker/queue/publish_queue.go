package queue

import (
	"sync"

	"github.com/google/uuid"

	"intake/internal/fair"
)

// Bounds of batches that share a message. JetStream syncs each message by itself, so sharing makes
// small batches cheap; a large one would only make the others wait for it.
const (
	maxSmallBytes = 64 << 10      // of each batch
	maxGroupBytes = 512 << 10     // of all
	maxGroupRaw   = maxChunkBytes // of all items as sent, which may compress without bound
)

// isSmall reports whether the batch may share a message with others.
func (s *submission) isSmall() bool {
	return len(s.datas) == 1 && s.bytes <= maxSmallBytes && s.base == uuid.Nil
}

// A publishQueue holds submissions that wait for the publisher. Small ones of one topic, a lane of a
// partner, are published together; topics take turns.
type publishQueue struct {
	mu      sync.Mutex
	changed *sync.Cond                      // on mu
	waiting fair.Queue[string, *submission] // by topic
	closed  bool
}

func newPublishQueue() *publishQueue {
	q := new(publishQueue)
	q.changed = sync.NewCond(&q.mu)
	return q
}

// add appends a submission. It reports whether it did: a closed queue accepts none.
func (q *publishQueue) add(s *submission) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.waiting.Add(s.topic, s)
	q.changed.Signal()
	return true
}

// remove removes a submission. It reports whether it was there: the publisher may have taken it.
func (q *publishQueue) remove(s *submission) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting.Remove(s.topic, func(other *submission) bool { return other == s })
}

// nextGroup waits for submissions and removes those that are to be published together: one, or
// several small ones of at most maxBytes. It returns nil once the queue is closed.
func (q *publishQueue) nextGroup(maxBytes int) group {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.waiting.IsEmpty() && !q.closed {
		q.changed.Wait()
	}
	if q.closed {
		return nil
	}
	waiting := q.waiting.Next()
	n := 1
	if waiting[0].isSmall() {
		bytes, raw := waiting[0].bytes, waiting[0].raw
		for n < len(waiting) && n < maxBatches && waiting[n].isSmall() {
			bytes += waiting[n].bytes
			raw += waiting[n].raw
			if bytes > maxBytes || raw > maxGroupRaw {
				break
			}
			n++
		}
	}
	return q.waiting.Pop(n)
}

// close closes the queue and returns the submissions that are left in it.
func (q *publishQueue) close() (left []*submission) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.changed.Broadcast()
	return q.waiting.Drain()
}
