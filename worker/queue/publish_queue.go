package queue

import (
	"sync"

	"intake/internal/fair"
)

// A line is where submissions wait to be published. Those of one partner and lane
// that wait at the same time are published together; the others take turns.
type publishQueue struct {
	mu      sync.Mutex
	changed *sync.Cond                      // on mu
	waiting fair.Queue[string, *submission] // by topic
	closed  bool
}

func newPublishQueue() *publishQueue {
	l := new(publishQueue)
	l.changed = sync.NewCond(&l.mu)
	return l
}

// join adds a submission, unless the line is closed.
func (l *publishQueue) join(s *submission) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.waiting.Add(s.topic, s)
	l.changed.Signal()
	return true
}

// leave takes a submission out again that nobody has taken yet.
func (l *publishQueue) leave(s *submission) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting.Remove(s.topic, func(other *submission) bool { return other == s })
}

// take waits for submissions and gives those that are to be published together,
// of at most maxBytes if they are several; nil when the line is closed.
func (l *publishQueue) take(maxBytes int) []*submission {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.waiting.IsEmpty() && !l.closed {
		l.changed.Wait()
	}
	if l.closed {
		return nil
	}
	waiting := l.waiting.Next()
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
	return l.waiting.Pop(n)
}

// close ends all waiting, and gives those that nobody has taken.
func (l *publishQueue) close() (left []*submission) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.changed.Broadcast()
	return l.waiting.Drain()
}
