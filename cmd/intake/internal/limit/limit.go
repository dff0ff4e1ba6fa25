// Package limit holds partners to their limits: how many items they may send a second, and
// how many requests, of how many bytes, may be in flight. All fronts count together, in
// Redis. While Redis is unavailable, each front holds partners to the limits by itself.
package limit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/nats-io/nuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"intake"
)

// Options of a Limiter. Zero values work.
type Options struct {
	Redis      redis.UniversalClient // nil: this front counts by itself
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// A Limiter limits partners. It is safe for concurrent use.
type Limiter struct {
	redis   redis.UniversalClient
	rates   *redis_rate.Limiter
	breaker *gobreaker.CircuitBreaker[struct{}]
	refused *prometheus.CounterVec
	name    string // of this process, in Redis

	mu       sync.Mutex
	last     int                // guarded by mu; number of the last slot
	partners map[int32]*account // guarded by mu
}

// An account is what a partner uses of this front.
type account struct {
	rate    *rate.Limiter
	blocked time.Time // until then further items are refused unseen
	bytes   int64
	slots   map[string]*Slot // of the requests in flight
}

// The names of the limits, for programs.
const (
	ItemsPerSecond   = "items_per_second"
	RequestsInFlight = "requests_in_flight"
	BytesInFlight    = "bytes_in_flight"
)

// An Exceeded is the limit that a request exceeds, and when to try again.
type Exceeded struct {
	Limit  string // ItemsPerSecond, RequestsInFlight or BytesInFlight
	Detail string
	After  time.Duration
}

// Usage is how much of a partner's rate is left.
type Usage struct {
	Remaining int           // items that may be sent now
	Reset     time.Duration // until the whole burst may be sent
}

// timeout bounds each call of Redis.
const timeout = 50 * time.Millisecond

// New returns a Limiter. Run must be called for its slots to last in Redis.
func New(opts Options) *Limiter {
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	l := &Limiter{
		redis: opts.Redis, name: nuid.Next(), partners: make(map[int32]*account),
		refused: promauto.With(opts.Registerer).NewCounterVec(prometheus.CounterOpts{
			Name: "intake_front_limited_total",
			Help: "Requests and lines of streams that exceeded a limit of their partner.",
		}, []string{"limit"}),
	}
	if opts.Redis == nil {
		return l
	}
	l.rates = redis_rate.NewLimiter(opts.Redis)
	l.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name: "limits", Timeout: time.Second,
		ReadyToTrip: func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= 3 },
		IsExcluded:  func(err error) bool { return errors.Is(err, context.Canceled) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			switch {
			case to == gobreaker.StateOpen && from == gobreaker.StateClosed:
				opts.Logger.Warn("redis is unavailable or slow, each front holds partners to their limits by itself")
			case to == gobreaker.StateClosed:
				opts.Logger.Info("redis is available again, all fronts hold partners to their limits together")
			}
		},
	})
	return l
}

// shared calls Redis, and reports whether it has answered.
func (l *Limiter) shared(ctx context.Context, ask func(context.Context) error) bool {
	if l.redis == nil {
		return false
	}
	_, err := l.breaker.Execute(func() (struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return struct{}{}, ask(ctx)
	})
	return err == nil
}

// accountOf must be called with mu held.
func (l *Limiter) accountOf(partner int32) *account {
	a := l.partners[partner]
	if a == nil {
		a = &account{slots: make(map[string]*Slot), rate: rate.NewLimiter(0, 0)}
		l.partners[partner] = a
	}
	return a
}

// rateOf must be called with mu held.
func (l *Limiter) rateOf(partner *intake.Partner) *rate.Limiter {
	a := l.accountOf(partner.ID)
	limit, burst := rate.Limit(partner.Limits.ItemsPerSecond), partner.Limits.Burst
	if a.rate.Limit() != limit || a.rate.Burst() != burst {
		a.rate = rate.NewLimiter(limit, burst)
	}
	return a.rate
}

// maxBlock bounds how long items are refused unseen: a smaller batch than the one that was
// refused may fit sooner.
const maxBlock = 500 * time.Millisecond

// Blocked returns the rate limit of a partner that has just used it up, so that a request
// can be refused before it is read. It returns nil for other partners.
func (l *Limiter) Blocked(partner *intake.Partner) *Exceeded {
	if partner.Limits.ItemsPerSecond == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	after := time.Until(l.accountOf(partner.ID).blocked)
	if after <= 0 {
		return nil
	}
	return l.exceedRate(partner, after)
}

func (l *Limiter) exceedRate(partner *intake.Partner, after time.Duration) *Exceeded {
	l.refused.WithLabelValues("rate").Inc()
	detail := fmt.Sprintf("more than %d items a second; nothing of this batch was saved or queued",
		partner.Limits.ItemsPerSecond)
	return &Exceeded{ItemsPerSecond, detail, after}
}

// Take takes items from a partner's rate, all of them or none.
func (l *Limiter) Take(ctx context.Context, partner *intake.Partner, items int) (Usage, *Exceeded) {
	limits := partner.Limits
	if limits.ItemsPerSecond == 0 {
		return Usage{}, nil
	}
	var usage Usage
	after := time.Duration(-1)
	if !l.shared(ctx, func(ctx context.Context) error {
		limit := redis_rate.Limit{Rate: limits.ItemsPerSecond, Burst: limits.Burst, Period: time.Second}
		got, err := l.rates.AllowN(ctx, keyOf(partner.ID, "rate"), limit, items)
		if err == nil {
			usage, after = Usage{got.Remaining, got.ResetAfter}, got.RetryAfter
		}
		return err
	}) {
		usage, after = l.takeAlone(partner, items)
	}
	if after < 0 {
		return usage, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accountOf(partner.ID).blocked = time.Now().Add(min(after, maxBlock))
	return usage, l.exceedRate(partner, after)
}

// takeAlone takes items from this front's own count of a rate.
func (l *Limiter) takeAlone(partner *intake.Partner, items int) (usage Usage, after time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.rateOf(partner)
	now := time.Now()
	after = -1
	reservation := limiter.ReserveN(now, items)
	if delay := reservation.DelayFrom(now); !reservation.OK() || delay > 0 {
		reservation.CancelAt(now)
		after = max(delay, time.Millisecond)
	}
	left := max(limiter.TokensAt(now), 0)
	missing := float64(partner.Limits.Burst) - left
	return Usage{int(left), time.Duration(missing / float64(partner.Limits.ItemsPerSecond) * float64(time.Second))},
		after
}

func keyOf(partner int32, what string) string {
	return "intake:limit:{" + strconv.Itoa(int(partner)) + "}:" + what
}
