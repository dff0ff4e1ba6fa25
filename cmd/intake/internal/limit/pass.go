package limit

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"intake"
)

// A Pass lets a request be in flight. It must be given back with Leave.
type Pass struct {
	limiter *Limiter
	partner *intake.Partner
	id      string
	bytes   int64
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
	if exceeded = pass.share(ctx, bytes); exceeded != nil {
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
		return &Exceeded{fmt.Sprintf("more than %d requests in flight; nothing of this one was saved or queued", limits.Requests), after}
	case limits.Bytes > 0 && inFlight > 0 && inFlight+bytes > limits.Bytes:
		l.refused.WithLabelValues("bytes").Inc()
		return &Exceeded{fmt.Sprintf("requests of more than %d bytes in flight; nothing of this one was saved or queued", limits.Bytes), after}
	}
	return nil
}

// Grow tells that a request turned out to have so many bytes.
func (p *Pass) Grow(ctx context.Context, bytes int64) *Exceeded {
	if p == nil || bytes <= p.bytes {
		return nil
	}
	l, before := p.limiter, p.bytes
	l.mu.Lock()
	exceeded := l.check(intake.Limits{Bytes: p.partner.Limits.Bytes}, 0, l.accountOf(p.partner).bytes-before, bytes)
	l.mu.Unlock()
	if exceeded != nil {
		return exceeded
	}
	p.resize(bytes)
	if exceeded = p.share(ctx, bytes); exceeded != nil {
		p.resize(before)
	}
	return exceeded
}

func (p *Pass) resize(bytes int64) {
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	p.limiter.accountOf(p.partner).bytes += bytes - p.bytes
	p.bytes = bytes
}

// A pass lasts for passTime in Redis unless it is renewed: those of a front that
// has died end by themselves.
const (
	passTime   = 15 * time.Second
	renewEvery = passTime / 3
)

// enter adds a request, or more bytes of one, to those in flight of all fronts,
// and gives how many there were, of how many bytes, if it may not: 1 for the
// requests, 2 for the bytes.
var enter = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('HINCRBY', KEYS[2], 'total', -(redis.call('HGET', KEYS[2], id) or 0))
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
end
local id, bytes, requests, room, last = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local known = redis.call('ZSCORE', KEYS[1], id)
local had = tonumber(redis.call('HGET', KEYS[2], id) or 0)
local others = tonumber(redis.call('HGET', KEYS[2], 'total') or 0) - had
if not known and requests > 0 and redis.call('ZCARD', KEYS[1]) >= requests then return 1 end
if room > 0 and others > 0 and others + bytes > room then return 2 end
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

// share has all fronts know of the pass.
func (p *Pass) share(ctx context.Context, bytes int64) (exceeded *Exceeded) {
	l, limits := p.limiter, p.partner.Limits
	l.shared(ctx, func(ctx context.Context) error {
		which, err := enter.Run(ctx, l.redis, p.keys(), p.id, bytes, limits.Requests, limits.Bytes, passTime.Milliseconds()).Int()
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
	l := p.limiter
	l.mu.Lock()
	a := l.accountOf(p.partner)
	delete(a.passes, p.id)
	a.bytes -= p.bytes
	l.mu.Unlock()
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
				pass.share(ctx, pass.bytes)
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
		for _, pass := range a.passes {
			copied := *pass
			passes = append(passes, &copied)
		}
	}
	return passes
}
