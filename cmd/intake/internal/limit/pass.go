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

// A Pass lets a request be in flight. It must be given back with Leave. A nil Pass is
// of a partner without limits, and does nothing.
type Pass struct {
	limiter *Limiter
	partner int32
	id      string
	bytes   int64 // guarded by limiter.mu

	sharing sync.Mutex    // held while Redis is told of the pass
	limits  intake.Limits // guarded by sharing where Add changes them; the partner's
	told    int64         // guarded by sharing; the bytes that Redis was told of; -1: it wasn't told of the pass
	left    bool          // guarded by sharing
}

// Enter lets a request of so many bytes in, if the partner may have one more.
func (l *Limiter) Enter(ctx context.Context, partner *intake.Partner, bytes int64) (*Pass, *Exceeded) {
	if !areShared(partner.Limits) {
		return nil, nil
	}
	return l.enter(ctx, partner, bytes)
}

// Open lets a stream in, as Enter does a request. Its Pass also counts for a partner
// without limits, which may get some while the stream is open.
func (l *Limiter) Open(ctx context.Context, partner *intake.Partner) (*Pass, *Exceeded) {
	return l.enter(ctx, partner, 0)
}

func (l *Limiter) enter(ctx context.Context, partner *intake.Partner, bytes int64) (*Pass, *Exceeded) {
	limits := partner.Limits
	pass := &Pass{limiter: l, partner: partner.ID, limits: limits, bytes: bytes, told: -1}
	pass.sharing.Lock()
	l.mu.Lock()
	a := l.accountOf(partner.ID)
	exceeded := l.check(limits, len(a.passes), a.bytes, bytes)
	if exceeded == nil {
		l.last++
		pass.id = fmt.Sprint(l.name, "-", l.last)
		a.passes[pass.id] = pass
		a.bytes += bytes
	}
	l.mu.Unlock()
	if exceeded != nil {
		return nil, exceeded
	}
	if areShared(limits) {
		exceeded = pass.share(ctx, 0, bytes, limits)
	}
	pass.sharing.Unlock()
	if exceeded != nil {
		pass.Leave()
		return nil, exceeded
	}
	return pass, nil
}

// areShared reports whether there are limits that all fronts hold a partner's
// requests in flight to.
func areShared(limits intake.Limits) bool { return limits.Requests > 0 || limits.Bytes > 0 }

// check returns which limit one more request exceeds, of what a partner may have in
// flight. One that is larger than all that it may have may be in flight by itself.
func (l *Limiter) check(limits intake.Limits, requests int, inFlight, bytes int64) *Exceeded {
	const after = time.Second
	switch {
	case limits.Requests > 0 && requests >= limits.Requests:
		l.refused.WithLabelValues("requests").Inc()
		detail := fmt.Sprintf("more than %d requests in flight; nothing of this one was saved or queued", limits.Requests)
		return &Exceeded{RequestsInFlight, detail, after}
	case limits.Bytes > 0 && inFlight > 0 && bytes > 0 && inFlight+bytes > limits.Bytes:
		l.refused.WithLabelValues("bytes").Inc()
		detail := fmt.Sprintf("requests of more than %d bytes in flight; nothing of this one was saved or queued", limits.Bytes)
		return &Exceeded{BytesInFlight, detail, after}
	}
	return nil
}

// Grow says that a request that is being read has so many bytes by now. Only this
// front knows of them before Settle.
func (p *Pass) Grow(bytes int64) *Exceeded {
	if p == nil {
		return nil
	}
	l := p.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	if bytes <= p.bytes {
		return nil
	}
	exceeded := l.check(intake.Limits{Bytes: p.limits.Bytes}, 0, l.accountOf(p.partner).bytes-p.bytes, bytes)
	if exceeded == nil {
		p.setSize(bytes)
	}
	return exceeded
}

// Settle holds a request that was read to what the partner may have in flight on all
// fronts.
func (p *Pass) Settle(ctx context.Context) *Exceeded {
	if p == nil || p.limits.Bytes == 0 {
		return nil
	}
	p.sharing.Lock()
	defer p.sharing.Unlock()
	bytes := p.size()
	if bytes <= p.told {
		return nil
	}
	return p.share(ctx, 0, bytes, intake.Limits{Bytes: p.limits.Bytes})
}

// Add says that so many bytes more are in flight, which Remove takes back: those of a
// line of a stream. They are held to the limits that the partner has now.
func (p *Pass) Add(ctx context.Context, limits intake.Limits, bytes int64) *Exceeded {
	p.sharing.Lock()
	defer p.sharing.Unlock()
	p.limits = limits
	limits.Requests = 0 // this one is in
	l := p.limiter
	l.mu.Lock()
	before := p.bytes
	exceeded := l.check(limits, 0, l.accountOf(p.partner).bytes, bytes)
	if exceeded == nil {
		p.setSize(before + bytes)
	}
	l.mu.Unlock()
	if exceeded != nil || limits.Bytes == 0 {
		return exceeded
	}
	if exceeded = p.share(ctx, before, before+bytes, limits); exceeded != nil {
		l.mu.Lock()
		p.setSize(before)
		l.mu.Unlock()
	}
	return exceeded
}

// Remove takes back what Add has added.
func (p *Pass) Remove(bytes int64) {
	p.sharing.Lock()
	defer p.sharing.Unlock()
	p.limiter.mu.Lock()
	left := p.bytes - bytes
	p.setSize(left)
	p.limiter.mu.Unlock()
	if p.limits.Bytes > 0 {
		p.share(context.Background(), 0, left, intake.Limits{})
	}
}

func (p *Pass) size() int64 {
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	return p.bytes
}

// setSize must be called with mu held.
func (p *Pass) setSize(bytes int64) {
	p.limiter.accountOf(p.partner).bytes += bytes - p.bytes
	p.bytes = bytes
}

// A pass lasts for passTime in Redis unless it is renewed: those of a front that
// has died end by themselves.
const (
	passTime   = 15 * time.Second
	renewEvery = passTime / 3
)

// enter adds a request to those in flight of all fronts, or gives one another size,
// unless it may not: then it tells which limit was exceeded, 1 for the requests, 2
// for the bytes.
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

func (p *Pass) keys() []string {
	return []string{keyOf(p.partner, "requests"), keyOf(p.partner, "bytes")}
}

// share has all fronts know of the pass, if it is within limits. So many of its
// bytes were there before, and stay.
func (p *Pass) share(ctx context.Context, stay, bytes int64, limits intake.Limits) (exceeded *Exceeded) {
	l := p.limiter
	p.told = bytes
	l.shared(ctx, func(ctx context.Context) error {
		which, err := enter.Run(ctx, l.redis, p.keys(), p.id, bytes, stay, limits.Requests, limits.Bytes, passTime.Milliseconds()).Int()
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

// Leave gives the pass back.
func (p *Pass) Leave() {
	if p == nil {
		return
	}
	p.sharing.Lock()
	defer p.sharing.Unlock()
	l := p.limiter
	l.mu.Lock()
	delete(l.accountOf(p.partner).passes, p.id)
	p.setSize(0)
	l.mu.Unlock()
	p.left = true
	if p.told < 0 {
		return
	}
	l.shared(context.Background(), func(ctx context.Context) error {
		return leave.Run(ctx, l.redis, p.keys(), p.id).Err()
	})
}

// Run renews passes in Redis until ctx ends.
func (l *Limiter) Run(ctx context.Context) error {
	ticker := time.NewTicker(renewEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			for _, pass := range l.all() {
				pass.renew(ctx)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (l *Limiter) all() (passes []*Pass) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.partners {
		passes = slices.AppendSeq(passes, maps.Values(a.passes))
	}
	return passes
}

// renew has the pass go on, whatever the limits are by now.
func (p *Pass) renew(ctx context.Context) {
	p.sharing.Lock()
	defer p.sharing.Unlock()
	if !p.left && areShared(p.limits) {
		p.share(ctx, 0, p.size(), intake.Limits{})
	}
}
