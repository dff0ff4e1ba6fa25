package front

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"intake"
)

// Wrong credentials that may come from an address for one client, and from an
// address altogether: so many at once, and then one in the time given.
const (
	pairFailures    = 30
	pairEvery       = 6 * time.Second
	addressFailures = 100
	addressEvery    = time.Second
)

// guesses keeps those away who guess client secrets. What is counted is counted
// for an address, so that nobody is locked out by what others do elsewhere; and
// a client that has come in from an address before is not held up there by wrong
// secrets for other clients.
type guesses struct {
	mu        sync.Mutex
	pairs     *lru.LRU[pair, *rate.Limiter]
	addresses *lru.LRU[netip.Addr, *rate.Limiter]
	known     *lru.LRU[pair, struct{}]
}

// A pair is an address and the client whose credentials come from there.
type pair struct {
	address netip.Addr
	client  string // empty for names that no partner can have: they are all counted as one
}

// pairOf returns a pair that may be kept: it shares no memory with what was sent, and
// has no name that cannot be a partner's, for that may be of any length.
func pairOf(address netip.Addr, client string) pair {
	if !intake.ValidPartnerName(client) {
		return pair{address: address}
	}
	return pair{address, strings.Clone(client)}
}

func newGuesses() *guesses {
	return &guesses{
		pairs:     newLRU[pair, *rate.Limiter](),
		addresses: newLRU[netip.Addr, *rate.Limiter](),
		known:     newLRU[pair, struct{}](),
	}
}

// newLRU makes a map of the 10,000 keys that were used last.
func newLRU[K comparable, V any]() *lru.LRU[K, V] {
	l, err := lru.NewLRU[K, V](10_000, nil)
	if err != nil {
		panic(err) // of a size that isn't positive
	}
	return l
}

// wait tells how long credentials from there are not looked at; zero if they are.
func (g *guesses) wait(p pair) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if limiter, ok := g.pairs.Get(p); ok && limiter.Tokens() < 1 {
		return pairEvery
	}
	if _, ok := g.known.Get(p); ok {
		return 0
	}
	if limiter, ok := g.addresses.Get(p.address); ok && limiter.Tokens() < 1 {
		return addressEvery
	}
	return 0
}

// note notes what credentials from there were.
func (g *guesses) note(p pair, right bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if right {
		g.known.Add(p, struct{}{})
		return
	}
	spend(g.pairs, p, pairEvery, pairFailures)
	spend(g.addresses, p.address, addressEvery, addressFailures)
}

func spend[K comparable](limiters *lru.LRU[K, *rate.Limiter], key K, every time.Duration, burst int) {
	limiter, ok := limiters.Get(key)
	if !ok {
		limiter = rate.NewLimiter(rate.Every(every), burst)
	}
	limiters.Add(key, limiter)
	limiter.Allow()
}

// addressOf returns the address that a request comes from: the last one that is no
// trusted proxy's.
func (f *Front) addressOf(r *http.Request) netip.Addr {
	address := parseRemote(r.RemoteAddr)
	forwarded := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(forwarded) - 1; i >= 0 && f.isProxy(address); i-- {
		next, err := netip.ParseAddr(strings.TrimSpace(forwarded[i]))
		if err != nil {
			break
		}
		address = next
	}
	return hostOf(address)
}

// parseRemote returns the address of a connection's far end; the zero Addr if it has
// none.
func parseRemote(remote string) netip.Addr {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	address, _ := netip.ParseAddr(host)
	return address
}

// hostOf returns an address that stands for all that its host may have: those of an
// IPv6 network of 64 bits are one's.
func hostOf(address netip.Addr) netip.Addr {
	address = address.Unmap()
	if address.Is6() {
		network, _ := address.Prefix(64)
		address = network.Addr()
	}
	return address
}

func (f *Front) isProxy(address netip.Addr) bool {
	for _, prefix := range f.opts.TrustedProxies {
		if prefix.Contains(address.Unmap()) {
			return true
		}
	}
	return false
}
