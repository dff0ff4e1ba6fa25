package limit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"intake"
)

// A Slot is a request's place among those of its partner in flight. It must be given back
// with Leave. The Slot of a partner without limits is nil, and does nothing. Except for
// Leave, Add and Remove, a Slot is for one goroutine.
type Slot struct {
	limiter *Limiter
	partner int32
	id      string
	bytes   int64 // guarded by limiter.mu

	publishing sync.Mutex    // held while the slot is written to Redis
	limits     intake.Limits // guarded by publishing once Add may change them; the partner's
	published  int64         // guarded by publishing; the bytes in Redis; -1: the slot isn't there
	left       bool          // guarded by publishing
}

// Enter returns a slot for a request of this many bytes, if the partner may have one more.
func (l *Limiter) Enter(ctx context.Context, partner *intake.Partner, bytes int64) (*Slot, *Exceeded) {
	if !areShared(partner.Limits) {
		return nil, nil
	}
	return l.enter(ctx, partner, bytes)
}

// Open returns a slot for a stream. A partner without limits has one too, since it may get
// limits while the stream is open.
func (l *Limiter) Open(ctx context.Context, partner *intake.Partner) (*Slot, *Exceeded) {
	return l.enter(ctx, partner, 0)
}

func (l *Limiter) enter(ctx context.Context, partner *intake.Partner, bytes int64) (*Slot, *Exceeded) {
	limits := partner.Limits
	slot := &Slot{limiter: l, partner: partner.ID, limits: limits, bytes: bytes, published: -1}
	slot.publishing.Lock()
	l.mu.Lock()
	a := l.accountOf(partner.ID)
	exceeded := l.check(limits, len(a.slots), a.bytes, bytes)
	if exceeded == nil {
		l.last++
		slot.id = fmt.Sprint(l.name, "-", l.last)
		a.slots[slot.id] = slot
		a.bytes += bytes
	}
	l.mu.Unlock()
	if exceeded != nil {
		return nil, exceeded
	}
	if areShared(limits) {
		exceeded = slot.publish(ctx, 0, bytes, limits)
	}
	slot.publishing.Unlock()
	if exceeded != nil {
		slot.Leave()
		return nil, exceeded
	}
	return slot, nil
}

// areShared reports whether requests in flight are limited, which all fronts count together.
func areShared(limits intake.Limits) bool { return limits.Requests > 0 || limits.Bytes > 0 }

// check returns the limit that one more request would exceed, nil if there is none. A
// request that is larger than the limit of bytes may be in flight by itself.
func (l *Limiter) check(limits intake.Limits, requests int, inFlight, bytes int64) *Exceeded {
	const after = time.Second
	switch {
	case limits.Requests > 0 && requests >= limits.Requests:
		l.refused.WithLabelValues("requests").Inc()
		detail := fmt.Sprintf("more than %d requests in flight; nothing of this one was saved or queued",
			limits.Requests)
		return &Exceeded{RequestsInFlight, detail, after}
	case limits.Bytes > 0 && inFlight > 0 && bytes > 0 && inFlight+bytes > limits.Bytes:
		l.refused.WithLabelValues("bytes").Inc()
		detail := fmt.Sprintf("requests of more than %d bytes in flight; nothing of this one was saved or queued",
			limits.Bytes)
		return &Exceeded{BytesInFlight, detail, after}
	}
	return nil
}

// Grow sets the bytes that were read of a request so far. Only this front counts them
// before Settle.
func (s *Slot) Grow(bytes int64) *Exceeded {
	if s == nil {
		return nil
	}
	l := s.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	if bytes <= s.bytes {
		return nil
	}
	exceeded := l.check(intake.Limits{Bytes: s.limits.Bytes}, 0, l.accountOf(s.partner).bytes-s.bytes, bytes)
	if exceeded == nil {
		s.setSize(bytes)
	}
	return exceeded
}

// Settle makes all fronts count the bytes of a request that was read, or returns the limit
// that they exceed.
func (s *Slot) Settle(ctx context.Context) *Exceeded {
	if s == nil || s.limits.Bytes == 0 {
		return nil
	}
	s.publishing.Lock()
	defer s.publishing.Unlock()
	bytes := s.size()
	if bytes <= s.published {
		return nil
	}
	return s.publish(ctx, 0, bytes, intake.Limits{Bytes: s.limits.Bytes})
}

// Add adds the bytes of a line of a stream, which Remove takes back. They are held to the
// limits that the partner has now.
func (s *Slot) Add(ctx context.Context, limits intake.Limits, bytes int64) *Exceeded {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	s.limits = limits
	limits.Requests = 0 // the stream has its slot
	l := s.limiter
	l.mu.Lock()
	before := s.bytes
	exceeded := l.check(limits, 0, l.accountOf(s.partner).bytes, bytes)
	if exceeded == nil {
		s.setSize(before + bytes)
	}
	l.mu.Unlock()
	if exceeded != nil || limits.Bytes == 0 {
		return exceeded
	}
	if exceeded = s.publish(ctx, before, before+bytes, limits); exceeded != nil {
		l.mu.Lock()
		s.setSize(before)
		l.mu.Unlock()
	}
	return exceeded
}

// Remove takes back bytes that Add has added.
func (s *Slot) Remove(bytes int64) {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	s.limiter.mu.Lock()
	left := s.bytes - bytes
	s.setSize(left)
	s.limiter.mu.Unlock()
	if s.limits.Bytes > 0 {
		s.publish(context.Background(), 0, left, intake.Limits{})
	}
}

func (s *Slot) size() int64 {
	s.limiter.mu.Lock()
	defer s.limiter.mu.Unlock()
	return s.bytes
}

// setSize must be called with mu held.
func (s *Slot) setSize(bytes int64) {
	s.limiter.accountOf(s.partner).bytes += bytes - s.bytes
	s.bytes = bytes
}

// A slot lasts for slotTime in Redis unless it is renewed, so that those of a front that has
// died end by themselves.
const (
	slotTime   = 15 * time.Second
	renewEvery = slotTime / 3
)

// enter adds a request to those in flight on all fronts, or changes its size. If a limit is
// exceeded it changes nothing, and returns which one: 1 is the requests, 2 the bytes.
var enter = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('HINCRBY', KEYS[2], 'total', -(redis.call('HGET', KEYS[2], id) or 0))
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
end
local id, bytes, stay = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local requests, room, last = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local known = redis.call('ZSCORE', KEYS[1], id)
local had = tonumber(redis.call('HGET', KEYS[2], id) or 0)
local others = tonumber(redis.call('HGET', KEYS[2], 'total') or 0) - had
if not known and requests > 0 and redis.call('ZCARD', KEYS[1]) >= requests then return 1 end
if room > 0 and bytes > stay and others + stay > 0 and others + bytes > room then return 2 end
redis.call('ZADD', KEYS[1], now + last, id)
redis.call('HSET', KEYS[2], id, bytes)
redis.call('HINCRBY', KEYS[2], 'total', bytes - had)
redis.call('PEXPIRE', KEYS[1], last)
redis.call('PEXPIRE', KEYS[2], last)
return 0`)

var leave = redis.NewScript(`
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then
  redis.call('HINCRBY', KEYS[2], 'total', -(redis.call('HGET', KEYS[2], ARGV[1]) or 0))
  redis.call('HDEL', KEYS[2], ARGV[1])
end
return 0`)

func (s *Slot) keys() []string {
	return []string{keyOf(s.partner, "requests"), keyOf(s.partner, "bytes")}
}

// publish writes the slot with its bytes to Redis, if it is within limits. The first stay
// bytes were there before, and are not refused.
func (s *Slot) publish(ctx context.Context, stay, bytes int64, limits intake.Limits) (exceeded *Exceeded) {
	l := s.limiter
	s.published = bytes
	l.shared(ctx, func(ctx context.Context) error {
		which, err := enter.Run(ctx, l.redis, s.keys(),
			s.id, bytes, stay, limits.Requests, limits.Bytes, slotTime.Milliseconds()).Int()
		switch {
		case err != nil:
			return err
		case which == 1:
			exceeded = l.check(limits, limits.Requests, 0, 0)
		case which == 2:
			exceeded = l.check(intake.Limits{Bytes: limits.Bytes}, 0, limits.Bytes, bytes)
		}
		return nil
	})
	return exceeded
}

// Leave releases the slot.
func (s *Slot) Leave() {
	if s == nil {
		return
	}
	s.publishing.Lock()
	defer s.publishing.Unlock()
	l := s.limiter
	l.mu.Lock()
	delete(l.accountOf(s.partner).slots, s.id)
	s.setSize(0)
	l.mu.Unlock()
	s.left = true
	if s.published < 0 {
		return
	}
	l.shared(context.Background(), func(ctx context.Context) error {
		return leave.Run(ctx, l.redis, s.keys(), s.id).Err()
	})
}

// Run renews slots in Redis until ctx ends.
func (l *Limiter) Run(ctx context.Context) error {
	ticker := time.NewTicker(renewEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			for _, slot := range l.all() {
				slot.renew(ctx)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (l *Limiter) all() (slots []*Slot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.partners {
		slots = slices.AppendSeq(slots, maps.Values(a.slots))
	}
	return slots
}

// renew makes the slot last on, whatever the limits are by now.
func (s *Slot) renew(ctx context.Context) {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	if !s.left && areShared(s.limits) {
		s.publish(ctx, 0, s.size(), intake.Limits{})
	}
}
