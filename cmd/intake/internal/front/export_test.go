package front

import (
	"maps"
	"net/http"
	"slices"
	"time"
)

// Inflight gives what the requests that are in have of the budget, in bytes.
func (f *Front) Inflight() int64 { return f.budget.taken() }

func (b *budget) taken() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.bytes
}

// SetBudget sets the bound on the memory of all requests, also to less than New
// would.
func (f *Front) SetBudget(bytes int64) { f.budget.limit = bytes }

// Questions returns what the questions that are in have of their budget, in bytes.
func (f *Front) Questions() int64 { return f.questions.taken() }

// SetQuestions sets the bound on the memory of all questions.
func (f *Front) SetQuestions(bytes int64) { f.questions.limit = bytes }

// SetStreamSilence sets for how long nothing need come of a stream.
func (f *Front) SetStreamSilence(d time.Duration) { f.streamSilence = d }

// SetUnreadLinger sets for how long a connection stays whose request was refused
// unread.
func (f *Front) SetUnreadLinger(d time.Duration) { f.unreadLinger = d }

// LookAgain has the files of a certificate looked at when it is needed next.
func (c *Certificate) LookAgain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked = time.Time{}
}

// Routes gives the methods that are answered, by path. What follows a path that
// takes an id is part of it here.
func (f *Front) Routes() map[string][]string {
	routes := make(map[string][]string)
	for path, methods := range f.routes {
		if path == statusPath {
			path += "{status_check_id}"
		}
		routes[path] = slices.Sorted(maps.Keys(methods))
	}
	return routes
}

// Take takes memory for a request of a partner, if it may have it, until back is called.
func (f *Front) Take(partner int32, bytes int64) (ok bool, back func()) {
	share := f.budget.share(partner)
	return share.add(bytes), share.release
}

// InterruptEndedStream interrupts the reading of a stream whose handler has returned.
func InterruptEndedStream(w http.ResponseWriter) {
	r := &streamReader{controller: http.NewResponseController(w)}
	r.end()
	r.interrupt()
}

// InterruptAfter is interruptAfter.
var InterruptAfter = interruptAfter
