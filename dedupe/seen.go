package dedupe

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
	"go.uber.org/zap"

	"intake"
)

// Seen tells what the seen set knows of a key.
type Seen uint8

// What is known of a key.
const (
	NotSeen       Seen = iota // nothing: it may have been saved all the same
	SeenSame                  // saved, with the same data
	SeenDifferent             // saved, with different data
)

// A Timeline names the history of the data store that it is in now. After a
// restore or a failover it gives another name.
type Timeline interface {
	Timeline(ctx context.Context) (string, error)
}

// SeenSetOptions of a SeenSet. Only Timeline is required.
type SeenSetOptions struct {
	Timeline   Timeline
	Logger     *zap.Logger
	Registerer prometheus.Registerer
	// AskTimeout bounds an Ask; 50 ms when zero.
	AskTimeout time.Duration
}

// A SeenSet holds, in Redis, keys that are saved, with the fingerprint of their
// data. It holds a part of what the data store holds, never more: it is marked
// after the commit, and its keys are named for the data store's timeline, so
// that records which a restore has lost are not called saved.
//
// A key lies in one of 65,536 small hashes, by a digest of it: hashes as small
// as that are kept as one string by Redis, at a quarter of the memory that a
// key of its own would take.
//
// Any number of goroutines may use it at once. A nil SeenSet knows nothing.
type SeenSet struct {
	client  redis.UniversalClient
	opts    SeenSetOptions
	breaker *gobreaker.CircuitBreaker[struct{}]
	metrics *metrics

	together together
	turns    chan struct{} // has an entry for each turn that is taken

	mu       sync.Mutex
	timeline string    // guarded by mu; what the data store said last
	until    time.Time // guarded by mu; for how long that holds
}

// The timeline is read every pollInterval, and what was read holds for lease,
// from the moment of the question: for so long, and an AskTimeout, may a record
// be called saved which the data store has just lost. A restore takes longer than
// that. At a failover it is as if the request had come so much sooner, when the
// record was still there.
const (
	pollInterval = time.Second
	lease        = 3 * time.Second
)

// NewSeenSet makes a seen set in a Redis. It asks nobody before Run runs.
func NewSeenSet(client redis.UniversalClient, opts SeenSetOptions) (*SeenSet, error) {
	if opts.Timeline == nil {
		return nil, errors.New("a seen set needs the data store's timeline")
	}
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	if opts.AskTimeout <= 0 {
		opts.AskTimeout = 50 * time.Millisecond
	}
	s := &SeenSet{client: client, opts: opts, metrics: newMetrics(opts.Registerer), turns: make(chan struct{}, turns)}
	s.together.client, s.together.timeout = client, opts.AskTimeout
	s.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:        "redis",
		Timeout:     time.Second, // then one ask is let through, to see
		ReadyToTrip: func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= 3 },
		// A client that goes away, or is in a hurry, says nothing about Redis.
		IsExcluded: func(err error) bool {
			return errors.Is(err, context.Canceled) || errors.Is(err, errHurry) || err == errNoTurn
		},
		OnStateChange: func(_ string, from, to gobreaker.State) {
			switch {
			case to == gobreaker.StateOpen && from == gobreaker.StateClosed:
				opts.Logger.Warn("redis is away or slow: nobody is asked what was seen, which costs speed only")
			case to == gobreaker.StateClosed:
				opts.Logger.Info("redis answers again")
			}
		},
	})
	return s, nil
}

// Run reads the data store's timeline again and again until ctx ends.
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
	asked := time.Now() // the answer may be as old as the question
	timeline, err := s.opts.Timeline.Timeline(ctx)
	if err != nil || timeline == "" {
		return // what is known holds until its lease ends
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timeline != "" && s.timeline != timeline {
		s.opts.Logger.Info("the data store was restarted, restored or has failed over: the seen set begins anew, which costs speed only; "+
			"intake seen rebuild fills it again", zap.String("old_timeline", s.timeline), zap.String("new_timeline", timeline))
	}
	s.timeline, s.until = timeline, asked.Add(lease)
}

func (s *SeenSet) currentTimeline() (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.timeline, time.Now().Before(s.until)
}

// askAtOnce bounds the keys of one round trip. Some thousands take a Redis, and
// this process, so long that a few large batches at once would all be too late,
// and end all asking; in parts, each learns what there was time for.
const askAtOnce = 1_000

// Ask tells what is known of the clients' keys, in a round trip for every
// thousand, or one for several asks of few: seen gets one entry a client. It never fails: what can't be asked in
// time is not seen.
func (s *SeenSet) Ask(ctx context.Context, partner int32, clients []*intake.PartnerClient, seen []Seen) {
	clear(seen)
	if s == nil || len(clients) == 0 {
		return
	}
	timeline, ok := s.currentTimeline()
	if !ok {
		s.metrics.asks.WithLabelValues("skipped").Inc()
		return
	}
	began := time.Now()
	partly := false
	_, err := s.breaker.Execute(func() (struct{}, error) {
		if len(clients) > fewKeys {
			if !s.takeTurn(ctx) {
				return struct{}{}, errNoTurn
			}
			defer s.leaveTurn()
		}
		asking, cancel := context.WithTimeout(ctx, s.opts.AskTimeout)
		defer cancel()
		answered, err := s.ask(asking, timeline, partner, clients, seen)
		switch deadline, ok := ctx.Deadline(); {
		case err == nil:
		case answered > 0 && isTimeout(err):
			partly, err = true, nil
		case ok && !time.Now().Before(deadline):
			err = fmt.Errorf("%w: %w", errHurry, err)
		}
		return struct{}{}, err
	})
	switch {
	case partly:
		s.metrics.asks.WithLabelValues("partly").Inc()
		return
	case err == nil:
		s.metrics.askSeconds.Observe(time.Since(began).Seconds())
		s.metrics.asks.WithLabelValues("answered").Inc()
		return
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests), err == errNoTurn:
		s.metrics.asks.WithLabelValues("skipped").Inc()
	default:
		s.metrics.asks.WithLabelValues("failed").Inc()
		s.opts.Logger.Debug("cannot ask redis", zap.Error(err))
	}
	clear(seen)
}

// turns is how many asks of more than a few keys may be under way at once. Redis
// answers one after the other anyway; when many of them share a connection pool
// and the processors, each takes as long as all together, and is too late.
const turns = 2

// errNoTurn is of an ask for which there was no turn in time. It says nothing of Redis.
var errNoTurn = errors.New("too many asks are under way")

// takeTurn waits for a turn as long as an ask itself may take.
func (s *SeenSet) takeTurn(ctx context.Context) bool {
	select {
	case s.turns <- struct{}{}:
		return true
	default:
	}
	enough := time.NewTimer(s.opts.AskTimeout)
	defer enough.Stop()
	select {
	case s.turns <- struct{}{}:
		return true
	case <-enough.C:
	case <-ctx.Done():
	}
	return false
}

func (s *SeenSet) leaveTurn() { <-s.turns }

// errHurry is the error of an ask whose caller had less time than an ask may take.
var errHurry = errors.New("the caller's deadline has passed")

// isTimeout tells whether an error is that of a deadline, on a connection or before.
func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// ask gives the number of keys that were answered before an error.
func (s *SeenSet) ask(ctx context.Context, timeline string, partner int32, clients []*intake.PartnerClient, seen []Seen) (answered int, err error) {
	places := make([]place, len(clients))
	for i, client := range clients {
		places[i] = placeOf(client.ID, i)
	}
	if len(places) <= fewKeys {
		q := &question{timeline: timeline, partner: partner, places: places}
		if err := s.together.ask(ctx, q); err != nil {
			return 0, err
		}
		q.read(clients, seen)
		return len(places), nil
	}
	for some := range slices.Chunk(places, askAtOnce) {
		q := &question{timeline: timeline, partner: partner, places: some}
		pipeline := s.client.Pipeline()
		q.put(ctx, pipeline)
		if err := exec(ctx, pipeline); err != nil {
			return answered, err
		}
		q.read(clients, seen)
		answered += len(some)
	}
	return answered, nil
}

// A question asks for the keys of a partner at some places.
type question struct {
	timeline string
	partner  int32
	places   []place
	commands []*redis.StringCmd
	done     chan error // of a question that is asked together with others
}

func (q *question) put(ctx context.Context, pipeline redis.Pipeliner) {
	q.commands = make([]*redis.StringCmd, len(q.places))
	prefix := prefixOf(q.timeline, q.partner)
	for i := range q.places {
		q.commands[i] = pipeline.HGet(ctx, keyOf(prefix, q.places[i].bucket), string(q.places[i].field[:]))
	}
}

// read reads the answers.
func (q *question) read(clients []*intake.PartnerClient, seen []Seen) {
	for i, command := range q.commands {
		at := q.places[i].item
		fingerprint, err := command.Result()
		switch {
		case err != nil || len(fingerprint) != len(intake.Fingerprint{}):
		case fingerprint == string(clients[at].Fingerprint[:]):
			seen[at] = SeenSame
		default:
			seen[at] = SeenDifferent
		}
	}
}

// exec sends a pipeline. That something isn't there is no error.
func exec(ctx context.Context, pipeline redis.Pipeliner) error {
	_, err := pipeline.Exec(ctx)
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

// markAtOnce bounds the keys of one pipeline, so that no other client of Redis
// waits long for it.
const markAtOnce = 5_000

// Mark marks keys that were committed on a timeline of the data store, and must
// not be called before. A saved record never changes, so marking one again, by
// whomever, changes nothing.
func (s *SeenSet) Mark(ctx context.Context, timeline string, keys []intake.SavedKey) error {
	if s == nil || timeline == "" {
		return nil
	}
	for some := range slices.Chunk(keys, markAtOnce) {
		if err := s.mark(ctx, timeline, some); err != nil {
			return fmt.Errorf("mark %d keys as seen: %w", len(keys), err)
		}
	}
	return nil
}

func (s *SeenSet) mark(ctx context.Context, timeline string, keys []intake.SavedKey) error {
	pipeline := s.client.Pipeline()
	for i := range keys {
		at := placeOf(keys[i].ID, i)
		pipeline.HSet(ctx, keyOf(prefixOf(timeline, keys[i].Partner), at.bucket), string(at.field[:]), string(keys[i].Fingerprint[:]))
	}
	return exec(ctx, pipeline)
}

// Unmarked tells how many of the keys are not marked, or marked with other data,
// on a timeline. Unlike Ask it waits, and may fail.
func (s *SeenSet) Unmarked(ctx context.Context, timeline string, keys []intake.SavedKey) (n int, err error) {
	for some := range slices.Chunk(keys, markAtOnce) {
		pipeline := s.client.Pipeline()
		commands := make([]*redis.StringCmd, len(some))
		for i := range some {
			at := placeOf(some[i].ID, i)
			commands[i] = pipeline.HGet(ctx, keyOf(prefixOf(timeline, some[i].Partner), at.bucket), string(at.field[:]))
		}
		if err := exec(ctx, pipeline); err != nil {
			return 0, fmt.Errorf("look up %d keys: %w", len(some), err)
		}
		for i, command := range commands {
			if command.Val() != string(some[i].Fingerprint[:]) {
				n++
			}
		}
	}
	return n, nil
}

// A place is where a key lies: a field of a bucket.
type place struct {
	bucket uint16
	field  [14]byte
	item   int // whose place it is
}

func placeOf(id string, item int) place {
	digest := sha256.Sum256([]byte(id))
	return place{bucket: uint16(digest[0])<<8 | uint16(digest[1]), field: [14]byte(digest[2:16]), item: item}
}

// prefixOf is how the names in Redis of a partner's buckets begin.
func prefixOf(timeline string, partner int32) string {
	return "intake:seen:" + timeline + ":" + strconv.Itoa(int(partner)) + ":"
}

// keyOf names a bucket in Redis.
func keyOf(prefix string, bucket uint16) string {
	var digits [4]byte
	hex.Encode(digits[:], []byte{byte(bucket >> 8), byte(bucket)})
	return prefix + string(digits[:])
}
