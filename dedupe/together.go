package dedupe

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// fewKeys is the size of a question, in keys, up to which it shares a round trip with
// others. For these, the round trip costs more than the answer.
const fewKeys = 100

// together makes questions of few keys share a round trip: those that arrive during one
// share the next. None waits for others to arrive.
type together struct {
	client  redis.UniversalClient
	timeout time.Duration // of a round trip

	mu      sync.Mutex
	waiting []*question // guarded by mu
	asking  bool        // guarded by mu
}

// ask asks a question and waits for the answer, or for ctx to end.
func (t *together) ask(ctx context.Context, q *question) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	q.done = make(chan error, 1)
	t.mu.Lock()
	t.waiting = append(t.waiting, q)
	first := !t.asking
	t.asking = true
	t.mu.Unlock()
	if first && t.askWaiting() {
		go func() {
			for t.askWaiting() {
			}
		}()
	}
	select {
	case err := <-q.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// askWaiting asks the waiting questions in one round trip, and reports whether more are
// waiting. Only one goroutine calls it at a time.
func (t *together) askWaiting() (more bool) {
	t.mu.Lock()
	n, keys := 0, 0
	for n < len(t.waiting) && keys+len(t.waiting[n].commands) <= keysPerTrip {
		keys += len(t.waiting[n].commands)
		n++
	}
	questions := t.waiting[:n:n]
	t.waiting = t.waiting[n:]
	t.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), t.timeout)
	defer cancel()
	pipeline := t.client.Pipeline()
	for _, q := range questions {
		q.put(ctx, pipeline)
	}
	err := exec(ctx, pipeline)
	for _, q := range questions {
		q.done <- err
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	t.asking = len(t.waiting) > 0
	return t.asking
}
