package worker

import "sync"

// A line is where submissions wait to be published. Those of one partner that
// wait at the same time are published together; the partners take turns.
type line struct {
	mu      sync.Mutex
	changed *sync.Cond               // on mu
	turns   []string                 // the partners that wait, in the order of their turns
	waiting map[string][]*submission // by partner
	closed  bool
}

func newLine() *line {
	l := &line{waiting: make(map[string][]*submission)}
	l.changed = sync.NewCond(&l.mu)
	return l
}

// join adds a submission, unless the line is closed.
func (l *line) join(s *submission) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	if len(l.waiting[s.partner]) == 0 {
		l.turns = append(l.turns, s.partner)
	}
	l.waiting[s.partner] = append(l.waiting[s.partner], s)
	l.changed.Signal()
	return true
}

// leave takes a submission out again that nobody has taken yet.
func (l *line) leave(s *submission) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting := l.waiting[s.partner]
	for i := range waiting {
		if waiting[i] == s {
			l.set(s.partner, append(waiting[:i:i], waiting[i+1:]...))
			return true
		}
	}
	return false
}

// set replaces what waits of a partner that has a turn.
func (l *line) set(partner string, waiting []*submission) {
	if len(waiting) > 0 {
		l.waiting[partner] = waiting
		return
	}
	delete(l.waiting, partner)
	for i := range l.turns {
		if l.turns[i] == partner {
			l.turns = append(l.turns[:i:i], l.turns[i+1:]...)
			return
		}
	}
}

// take waits for submissions and gives those that are to be published together,
// of at most maxBytes if they are several; nil when the line is closed.
func (l *line) take(maxBytes int) []*submission {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.turns) == 0 && !l.closed {
		l.changed.Wait()
	}
	if l.closed {
		return nil
	}
	partner := l.turns[0]
	waiting := l.waiting[partner]
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
	group := waiting[:n:n]
	l.set(partner, waiting[n:])
	if len(l.turns) > 0 && l.turns[0] == partner { // there is more: behind the others
		l.turns = append(l.turns[1:], partner)
	}
	return group
}

// close ends all waiting, and gives those that nobody has taken.
func (l *line) close() (left []*submission) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.changed.Broadcast()
	for _, waiting := range l.waiting {
		left = append(left, waiting...)
	}
	l.waiting, l.turns = nil, nil
	return left
}
