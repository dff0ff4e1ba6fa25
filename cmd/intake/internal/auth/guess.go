package auth

import (
	"net/netip"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"intake"
)

// Bounds on wrong credentials, for one client at one address and for an address as a
// whole: a burst, and then one in each interval.
const (
	pairFailures    = 30
	pairEvery       = 6 * time.Second
	addressFailures = 100
	addressEvery    = time.Second
)

// guesses bounds the wrong credentials that come from an address. The secrets that
// [NewSecret] makes can't be guessed; this is for load, for logs, and for secrets that
// were made elsewhere. A wrong guess is only ever counted at the address that it comes
// from, so nobody can lock a client out elsewhere; and a client that has got a token
// from an address before is not held up there by wrong secrets of other clients.
type guesses struct {
	mu    sync.Mutex
	wrong *lru.LRU[pair, *rate.Limiter] // guarded by mu; those of an address as a whole have no client
	known *lru.LRU[pair, struct{}]      // guarded by mu; pairs whose credentials were right once
}

// A pair is an address and the client whose credentials come from there.
type pair struct {
	address netip.Addr
	client  string
}

// invalidClient stands for all names that no partner can have: they are counted as one.
const invalidClient = "?"

// pairOf returns a pair that can be kept: it shares no memory with what was sent, and
// has no name that can't be a partner's, which might be of any length.
func pairOf(address netip.Addr, client string) pair {
	if !intake.ValidPartnerName(client) {
		return pair{address, invalidClient}
	}
	return pair{address, strings.Clone(client)}
}

func newGuesses() *guesses {
	return &guesses{wrong: newLRU[*rate.Limiter](), known: newLRU[struct{}]()}
}

// newLRU returns a map that keeps the 10,000 pairs that were used last.
func newLRU[V any]() *lru.LRU[pair, V] {
	l, err := lru.NewLRU[pair, V](10_000, nil)
	if err != nil {
		panic(err) // the size is not positive
	}
	return l
}

// wait returns for how long credentials from there are refused unseen, 0 if they are
// looked at.
func (g *guesses) wait(p pair) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isSpent(p) {
		return pairEvery
	}
	if _, known := g.known.Get(p); !known && g.isSpent(pair{address: p.address}) {
		return addressEvery
	}
	return 0
}

// isSpent must be called with mu held.
func (g *guesses) isSpent(p pair) bool {
	limiter, ok := g.wrong.Get(p)
	return ok && limiter.Tokens() < 1
}

// note counts credentials from there, which were right or wrong.
func (g *guesses) note(p pair, right bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if right {
		g.known.Add(p, struct{}{})
		return
	}
	g.spend(p, pairEvery, pairFailures)
	g.spend(pair{address: p.address}, addressEvery, addressFailures)
}

// spend must be called with mu held.
func (g *guesses) spend(p pair, every time.Duration, burst int) {
	limiter, ok := g.wrong.Get(p)
	if !ok {
		limiter = rate.NewLimiter(rate.Every(every), burst)
		g.wrong.Add(p, limiter)
	}
	limiter.Allow()
}
