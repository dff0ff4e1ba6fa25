package front

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"intake"
)

// memoryFactor is how much memory a request needs for each byte of its body: the
// body, what is decoded of it, and the messages that it is queued in. Measured
// on bodies of clients with a year of months it is 2.3.
const memoryFactor = 3

// A budget bounds the memory of all requests together. Nobody waits for it:
// what doesn't fit is refused, and may come again later.
type budget struct {
	limit int64
	used  atomic.Int64
	gauge prometheus.Gauge
}

// A share is what one request has of the budget, counted in bytes of its body.
type share struct {
	budget *budget
	bytes  int64
}

// grow makes the share large enough for a body of so many bytes, unless there
// isn't that much left.
func (s *share) grow(body int64) bool {
	more := min(body, intake.MaxBodyBytes) - s.bytes
	if more <= 0 {
		return true
	}
	b := s.budget
	if b.used.Add(more*memoryFactor) > b.limit {
		b.used.Add(-more * memoryFactor)
		return false
	}
	s.bytes += more
	b.gauge.Set(float64(b.used.Load()))
	return true
}

func (s *share) release() {
	s.budget.gauge.Set(float64(s.budget.used.Add(-s.bytes * memoryFactor)))
	s.bytes = 0
}
