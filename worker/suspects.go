package worker

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// suspects are messages that failed by themselves: the data store could not save them, or they have a newer
// version. Each worker knows those that it saw fail.
type suspects struct {
	mu    sync.Mutex
	saved uint64            // gatherings that this worker has saved
	since map[uint64]uint64 // value of saved at the first failure, by the message's sequence
}

// maxSuspects bounds the suspects. Beyond it all are forgotten.
const maxSuspects = 10_000

// noteSaved notes that a gathering was saved.
func (s *suspects) noteSaved(gathering []*held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saved++
	if len(s.since) == 0 {
		return
	}
	for _, h := range gathering {
		if meta, err := h.msg.Metadata(); err == nil {
			delete(s.since, meta.Sequence.Stream)
		}
	}
}

// noteFailed notes that a message failed, and reports whether other messages were saved since its first
// failure.
func (s *suspects) noteFailed(sequence uint64) (othersSaved bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if saved, ok := s.since[sequence]; ok {
		return s.saved > saved
	}
	if s.since == nil || len(s.since) == maxSuspects {
		s.since = make(map[uint64]uint64)
	}
	s.since[sequence] = s.saved
	return false
}

// Bounds of a message that fails by itself. It is given up once it has reached both.
const (
	maxDeliveries = 20
	maxAge        = 10 * time.Minute
)

// isHopeless notes that a message failed by itself, and reports whether to give it up: it was delivered often
// enough, is old enough, and others were saved since it first failed. While nothing can be saved, no message
// is hopeless.
func (w *Worker) isHopeless(msg jetstream.Msg) bool {
	meta, err := msg.Metadata()
	return err == nil && w.suspects.noteFailed(meta.Sequence.Stream) &&
		meta.NumDelivered >= w.maxDeliveries && time.Since(meta.Timestamp) >= w.maxAge
}
