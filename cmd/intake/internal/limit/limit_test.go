package limit_test

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"intake"
	"intake/cmd/intake/internal/limit"
	"intake/dedupe"
	"intake/internal/local/localtest"
)

func TestMain(m *testing.M) {
	redis.SetLogger(silent{})
	localtest.Main(m)
}

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

func newLimiter(t *testing.T, url string) *limit.Limiter {
	t.Helper()
	var client redis.UniversalClient
	if url != "" {
		var err error
		if client, err = dedupe.NewClient(url); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
	}
	return limit.New(limit.Options{Redis: client, Registerer: prometheus.NewRegistry()})
}

// onTwoFronts runs a test with the limiters of two fronts, which are one without
// Redis.
func onTwoFronts(t *testing.T, test func(t *testing.T, a, b *limit.Limiter)) {
	for name, url := range map[string]string{"redis": localtest.Redis(t), "alone": "",
		"redis away": "redis://127.0.0.1:1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newLimiter(t, url)
			b := a
			if name == "redis" {
				b = newLimiter(t, url)
			}
			test(t, a, b)
		})
	}
}

// Each limit holds for all fronts together, or for each by itself without Redis;
// and for each partner by itself.
func TestLimiter(t *testing.T) {
	t.Parallel()
	onTwoFronts(t, func(t *testing.T, a, b *limit.Limiter) {
		ctx := t.Context()
		partner := &intake.Partner{ID: 1, Limits: intake.Limits{ItemsPerSecond: 1, Burst: 10_000, Requests: 3,
			Bytes: 1_000}}
		other := &intake.Partner{ID: 2, Limits: partner.Limits}

		if usage, exceeded := a.Take(ctx, partner, 6_000); exceeded != nil || usage.Remaining != 4_000 ||
			usage.Reset < 5_900*time.Second {
			t.Errorf("%+v %+v", usage, exceeded)
		}
		if _, exceeded := b.Take(ctx, partner, 6_000); exceeded == nil || exceeded.After < 1_900*time.Second ||
			exceeded.After > 2_000*time.Second {
			t.Errorf("%+v", exceeded)
		}
		if exceeded := b.Blocked(partner); exceeded == nil || exceeded.After > time.Second {
			t.Errorf("%+v", exceeded)
		}
		if usage, exceeded := a.Take(ctx, partner, 4_000); exceeded != nil || usage.Remaining > 10 {
			t.Errorf("%+v %+v", usage, exceeded)
		}
		if usage, exceeded := b.Take(ctx, other, 10_000); exceeded != nil {
			t.Errorf("another partner: %+v %+v", usage, exceeded)
		}

		var slots []*limit.Slot
		for n, front := range []*limit.Limiter{a, b, a} {
			slot, exceeded := front.Enter(ctx, partner, 100)
			if exceeded != nil {
				t.Fatalf("request %d: %+v", n, exceeded)
			}
			slots = append(slots, slot)
		}
		if _, exceeded := b.Enter(ctx, partner, 100); exceeded == nil {
			t.Error("a request too many")
		}
		if _, exceeded := b.Enter(ctx, other, 100); exceeded != nil {
			t.Errorf("another partner: %+v", exceeded)
		}
		slots[0].Leave()
		grow := func(bytes int64) *limit.Exceeded {
			if exceeded := slots[1].Grow(bytes); exceeded != nil {
				return exceeded
			}
			return slots[1].Settle(ctx)
		}
		if exceeded := grow(900); exceeded != nil {
			t.Errorf("%+v", exceeded)
		}
		if exceeded := grow(901); exceeded == nil {
			t.Error("a byte too many")
		}
		if _, exceeded := a.Enter(ctx, partner, 1); exceeded == nil {
			t.Error("a byte too many, of another request")
		}
		slots[1].Leave()
		slots[2].Leave()
		slot, exceeded := a.Enter(ctx, partner, 5_000)
		if exceeded != nil {
			t.Errorf("one that is too large may be in by itself: %+v", exceeded)
		}
		if _, exceeded := b.Enter(ctx, partner, 1); exceeded == nil {
			t.Error("another one beside it")
		}
		slot.Leave()
	})
}

// Who has no limits is not counted.
func TestLimiter_NoLimits(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, "")
	partner := &intake.Partner{ID: 1}
	for range 10 {
		if _, exceeded := l.Take(t.Context(), partner, 10_000); exceeded != nil {
			t.Error(exceeded)
		}
		slot, exceeded := l.Enter(t.Context(), partner, 1<<40)
		if exceeded != nil || slot.Grow(1<<50) != nil || slot.Settle(t.Context()) != nil {
			t.Error(exceeded)
		}
		defer slot.Leave()
	}
	if exceeded := l.Blocked(partner); exceeded != nil {
		t.Error(exceeded)
	}
}

// Requests of a front that has died are in flight no longer than a slot lasts;
// those of one that lives for as long as they are.
func TestLimiter_Renewal(t *testing.T) {
	t.Parallel()
	url := localtest.Redis(t)
	living, dead, asking := newLimiter(t, url), newLimiter(t, url), newLimiter(t, url)
	partner := &intake.Partner{ID: 1, Limits: intake.Limits{Requests: 2}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- living.Run(ctx) }()
	for _, l := range []*limit.Limiter{living, dead} {
		if _, exceeded := l.Enter(t.Context(), partner, 1); exceeded != nil {
			t.Fatal(exceeded)
		}
	}
	deadline := time.After(time.Minute)
	for {
		slot, exceeded := asking.Enter(t.Context(), partner, 1)
		if exceeded == nil {
			if _, exceeded := asking.Enter(t.Context(), partner, 1); exceeded == nil {
				t.Error("the living front's request is not counted")
			}
			slot.Leave()
			break
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-deadline:
			t.Fatal("the dead front's request is in flight for ever")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Lines of a stream come and go as bytes of its slot.
func TestPass_Add(t *testing.T) {
	t.Parallel()
	onTwoFronts(t, func(t *testing.T, a, b *limit.Limiter) {
		ctx := t.Context()
		enter := func(l *limit.Limiter, limits intake.Limits) *limit.Slot {
			t.Helper()
			slot, exceeded := l.Open(ctx, &intake.Partner{ID: 1, Limits: limits})
			if exceeded != nil {
				t.Fatalf("%+v", exceeded)
			}
			return slot
		}
		limits := intake.Limits{Requests: 2, Bytes: 1_000}
		one, other := enter(a, limits), enter(b, limits)
		steps := []struct {
			slot    *limit.Slot
			add     int64 // or remove
			allowed bool
		}{
			{one, 5_000, true}, // by itself it may be too large
			{one, 1, false},
			{other, 1, false},
			{one, -5_000, true},
			{one, 600, true},
			{other, 500, false},
			{other, 400, true},
			{one, 1, false},
			{one, -600, true},
			{one, 601, false},
			{one, 600, true},
		}
		for n, step := range steps {
			if step.add < 0 {
				step.slot.Remove(-step.add)
			} else if exceeded := step.slot.Add(ctx, limits, step.add); (exceeded == nil) != step.allowed {
				t.Errorf("step %d: %+v", n, exceeded)
			}
		}
		one.Leave()
		if exceeded := other.Add(ctx, limits, 600); exceeded != nil {
			t.Errorf("what has left is counted: %+v", exceeded)
		}
		other.Leave()

		// Limits that come, and go, while a stream is open hold for its next line.
		one, other = enter(a, intake.Limits{}), enter(b, intake.Limits{})
		for n, c := range []struct {
			slot    *limit.Slot
			limits  intake.Limits
			add     int64
			allowed bool
		}{
			{one, intake.Limits{}, 5_000, true},
			{one, limits, 1, false},
			{one, limits, -5_000, true},
			{one, limits, 600, true},
			{other, limits, 401, false},
			{other, intake.Limits{Bytes: 2_000}, 401, true},
			{one, limits, 1, false},
			{one, intake.Limits{}, 5_000, true},
		} {
			if c.add < 0 {
				c.slot.Remove(-c.add)
			} else if exceeded := c.slot.Add(ctx, c.limits, c.add); (exceeded == nil) != c.allowed {
				t.Errorf("with other limits, step %d: %+v", n, exceeded)
			}
		}
		if _, exceeded := b.Enter(ctx, &intake.Partner{ID: 1, Limits: limits}, 0); exceeded == nil {
			t.Error("streams that were opened without limits are not counted")
		}
	})
}

// A renewal that comes too late doesn't bring a request back.
func TestPass_LateRenewal(t *testing.T) {
	t.Parallel()
	url := localtest.Redis(t)
	partner := &intake.Partner{ID: 1, Limits: intake.Limits{Requests: 1}}
	slot, exceeded := newLimiter(t, url).Enter(t.Context(), partner, 0)
	if exceeded != nil {
		t.Fatalf("%+v", exceeded)
	}
	slot.Leave()
	slot.Renew(t.Context())
	if _, exceeded := newLimiter(t, url).Enter(t.Context(), partner, 0); exceeded != nil {
		t.Errorf("%+v", exceeded)
	}
}
