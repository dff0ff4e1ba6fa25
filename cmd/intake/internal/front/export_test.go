package front

import (
	"maps"
	"net/http"
	"slices"
	"time"
)

// Inflight returns how many bytes of the budget the requests in flight hold.
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

// Routes returns the methods that are answered, by path.
func (f *Front) Routes() map[string][]string {
	paths := make(map[string][]string)
	for path, route := range f.routes {
		paths[path] = slices.Sorted(maps.Keys(route))
	}
	return paths
}

// Take takes memory for a request of a partner, if it may have it, until back is called.
func (f *Front) Take(partner int32, bytes int64) (ok bool, back func()) {
	memory := f.budget.memoryOf(partner)
	return memory.add(bytes), memory.release
}

// NewPacedReader returns the methods of a reader of a request.
func NewPacedReader(w http.ResponseWriter) (interrupt, end func()) {
	r := &pacedReader{controller: http.NewResponseController(w)}
	return r.interrupt, r.end
}

// NewBody returns a buffer for a body, of at least this size, and PutBody keeps it for another.
func NewBody(size int64) []byte {
	_, size = sizeClass(size)
	return newBody(size)
}

// PutBody is [putBody].
func PutBody(buffer []byte) { putBody(buffer) }
