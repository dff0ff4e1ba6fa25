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

// A Pass lets a request be in flight. It must be given back with Leave.
type Pass struct {
	limiter *Limiter
	partner *intake.Partner
	id      string
	bytes   int64 // guarded by limiter.mu

	sharing sync.Mutex // held while Redis is told of the pass
	left    bool       // guarded by sharing
}

// Enter lets a request of so many bytes in, if the partner may have one more.
func (l *Limiter) Enter(ctx context.Context, partner *intake.Partner, bytes int64) (*Pass, *Exceeded) {
	limits := partner.Limits
	if limits.Requests == 0 && limits.Bytes == 0 {
		return nil, nil
	}
	l.mu.Lock()
	a := l.accountOf(partner)
	exceeded := l.check(limits, len(a.passes), a.bytes, bytes)
	var pass *Pass
	if exceeded == nil {
		l.last++
		pass = &Pass{limiter: l, partner: partner, id: fmt.Sprint(l.name, "-", l.last), bytes: bytes}
		a.passes[pass.id] = pass
		a.bytes += bytes
	}
	l.mu.Unlock()
	if exceeded != nil {
		return nil, exceeded
	}
	if exceeded = pass.share(ctx, 0, bytes, limits); exceeded != nil {
		pass.Leave()
		return nil, exceeded
	}
	return pass, nil
}

// check tells whether one more request exceeds what a partner may have in flight.
// One that is larger than all that it may have may be in flight by itself.
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

// Grow tells that a request turned out to have so many bytes.
func (p *Pass) Grow(ctx context.Context, bytes int64) *Exceeded {
	if p == nil || p.partner.Limits.Bytes == 0 {
		return nil
	}
	p.sharing.Lock()
	defer p.sharing.Unlock()
	before := p.size()
	if bytes <= before {
		return nil
	}
	return p.resize(ctx, before, 0, bytes)
}

// Add tells that so many bytes more of a request are in flight, which Remove takes
// back: those of a line of a stream.
func (p *Pass) Add(ctx context.Context, bytes int64) *Exceeded {
	if p == nil || p.partner.Limits.Bytes == 0 {
		return nil
	}
	p.sharing.Lock()
	defer p.sharing.Unlock()
	before := p.size()
	return p.resize(ctx, before, before, before+bytes)
}

// Remove takes back what Add has added.
func (p *Pass) Remove(bytes int64) {
	if p == nil || p.partner.Limits.Bytes == 0 {
		return
	}
	p.sharing.Lock()
	defer p.sharing.Unlock()
	after := p.size() - bytes
	p.limiter.mu.Lock()
	p.setSize(after)
	p.limiter.mu.Unlock()
	p.share(context.Background(), 0, after, intake.Limits{})
}

// resize makes a pass of before bytes one of after, unless there is no room for it
// beside those that stay, of this one and the others.
func (p *Pass) resize(ctx context.Context, before, stay, after int64) *Exceeded {
	l, limits := p.limiter, intake.Limits{Bytes: p.partner.Limits.Bytes}
	l.mu.Lock()
	exceeded := l.check(limits, 0, l.accountOf(p.partner).bytes-before+stay, after-stay)
	if exceeded == nil {
		p.setSize(after)
	}
	l.mu.Unlock()
	if exceeded != nil {
		return exceeded
	}
	if exceeded = p.share(ctx, stay, after, limits); exceeded != nil {
		l.mu.Lock()
		p.setSize(before)
		l.mu.Unlock()
	}
	return exceeded
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
	if !p.left {
		p.share(ctx, 0, p.size(), intake.Limits{})
	}
}
