package dedupe

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
	"go.uber.org/zap"
)

// Seen is what the seen set knows of a key.
type Seen uint8

// The values of Seen.
const (
	NotSeen       Seen = iota // nothing; it may be saved nevertheless
	SeenSame                  // saved, with the same data
	SeenDifferent             // saved, with different data
)

// A Timeline knows the history of the data store.
type Timeline interface {
	// Timeline returns the name of the current history. It returns another name after
	// a restore or a failover.
	Timeline(ctx context.Context) (string, error)
}

// SeenSetOptions are the options of a [SeenSet]. Only Timeline is required.
type SeenSetOptions struct {
	Timeline   Timeline
	Logger     *zap.Logger
	Registerer prometheus.Registerer
	// AskTimeout bounds an Ask. The default is 50 ms.
	AskTimeout time.Duration
}

// A SeenSet holds keys that are saved, with the fingerprints of their data, in Redis. It
// holds a subset of what the data store holds: keys are marked after the commit, and the
// name of the data store's timeline is part of their names in Redis, so that records
// that a restore has lost are not taken for saved.
//
// A key is a field of one of 65,536 small hashes, chosen by its digest. Redis keeps such
// a small hash as one string, which takes a quarter of the memory of separate keys.
//
// A SeenSet is safe for concurrent use. A nil SeenSet knows no key.
type SeenSet struct {
	client  redis.UniversalClient
	opts    SeenSetOptions
	breaker *gobreaker.CircuitBreaker[struct{}]
	metrics *metrics

	together  together
	largeAsks chan struct{} // has an entry per large ask under way

	mu       sync.Mutex
	timeline string    // guarded by mu; the last one read
	until    time.Time // guarded by mu; when its lease ends
}

// The timeline is read every pollInterval, and is used for lease after the query was
// sent. For that time and an AskTimeout, a record that the data store has just lost may
// be taken for saved. A restore takes longer. After a failover the answer is the one that
// the request would have got that much earlier, when the record was still there.
const (
	pollInterval = time.Second
	lease        = 3 * time.Second
)

// NewSeenSet returns a seen set in a Redis. It knows no key until [SeenSet.Run] runs.
func NewSeenSet(client redis.UniversalClient, opts SeenSetOptions) (*SeenSet, error) {
	if opts.Timeline == nil {
		return nil, errors.New("SeenSetOptions.Timeline is required")
	}
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	if opts.AskTimeout <= 0 {
		opts.AskTimeout = 50 * time.Millisecond
	}
	s := &SeenSet{client: client, opts: opts, metrics: newMetrics(opts.Registerer), largeAsks: make(chan struct{},
		maxLargeAsks)}
	s.together.client, s.together.timeout = client, opts.AskTimeout
	s.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:        "redis",
		Timeout:     time.Second, // one ask is let through then
		ReadyToTrip: func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= 3 },
		// A caller that has gone, or has little time, says nothing about Redis.
		IsExcluded: func(err error) bool {
			return errors.Is(err, context.Canceled) || errors.Is(err, errHurry) || err == errTooManyAsks
		},
		OnStateChange: func(_ string, from, to gobreaker.State) {
			switch {
			case to == gobreaker.StateOpen && from == gobreaker.StateClosed:
				opts.Logger.Warn("redis unavailable, skipping seen-set lookups, which costs speed only")
			case to == gobreaker.StateClosed:
				opts.Logger.Info("redis answers again")
			}
		},
	})
	return s, nil
}

// Run polls the data store's timeline until ctx ends. It returns nil.
func (s *SeenSet) Run(ctx context.Context) error {
	if s == nil {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		s.readTimeline(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *SeenSet) readTimeline(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lease)
	defer cancel()
	asked := time.Now() // the answer may be as old as the query
	timeline, err := s.opts.Timeline.Timeline(ctx)
	if err != nil || timeline == "" {
		return // the last one is used until its lease ends
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timeline != "" && s.timeline != timeline {
		s.opts.Logger.Info("the data store was restarted, restored or has failed over: the seen set begins anew, which costs speed only; "+
			"intake seen rebuild fills it again", zap.String("old_timeline", s.timeline),
			zap.String("new_timeline", timeline))
	}
	s.timeline, s.until = timeline, asked.Add(lease)
}

func (s *SeenSet) currentTimeline() (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.timeline, time.Now().Before(s.until)
}

// exec sends a pipeline. A missing field is not an error.
func exec(ctx context.Context, pipeline redis.Pipeliner) error {
	_, err := pipeline.Exec(ctx)
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}
