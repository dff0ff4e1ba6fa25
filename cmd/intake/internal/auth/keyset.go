package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// An issuerKey is a public key of an external issuer.
type issuerKey struct {
	id     string
	alg    string // the only algorithm that it is for; empty: any that fits
	public crypto.PublicKey
}

// fits reports whether the key may sign tokens of an algorithm (RFC 8725 §3.1, §3.5).
func (k *issuerKey) fits(alg string) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch public := k.public.(type) {
	case *ecdsa.PublicKey:
		return alg == "ES256" && public.Curve == elliptic.P256() || alg == "ES384" && public.Curve == elliptic.P384()
	case *rsa.PublicKey:
		bits := public.N.BitLen()
		return (alg == "RS256" || alg == "PS256") && bits >= 2048 && bits <= 8192
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}

func (k *issuerKey) equal(other *issuerKey) bool {
	public, ok := k.public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.id == other.id && k.alg == other.alg && public.Equal(other.public)
}

// A keyPace is how often the keys of an issuer are fetched.
type keyPace struct {
	every    time.Duration // between two fetches
	cooldown time.Duration // the least time between two fetches, also after a failure
	timeout  time.Duration // of a fetch
	patience time.Duration // of a request that waits for a fetch
}

var defaultKeyPace = keyPace{
	every: time.Minute, cooldown: 5 * time.Second, timeout: 10 * time.Second, patience: 2 * time.Second,
}

// A keySet keeps up with the keys of an external issuer. Only run fetches them, one
// fetch at a time. When fetches fail, the keys read last stay in force.
//
// The fetching is hand-written, because no library does all of it: fetch regularly, so
// that a withdrawn key is dropped within a minute; fetch for an unknown kid too, so
// that a new key works at once, but never more often than the cooldown, whatever
// strangers send; let requests with a new key wait for a fetch under way instead of
// refusing them; and bound what is read. go-oidc's RemoteKeySet fetches for every
// unknown kid, and keeps a withdrawn key until then. keyfunc refuses requests with a
// new key while a fetch for another one is under way, and does no discovery. Neither
// bounds what it reads. jwx would bring a second JWT library beside golang-jwt/jwt,
// which verifies these tokens as it does the built-in issuer's. Key sets are parsed
// with go-jose, as go-oidc does.
type keySet struct {
	fetch   func(ctx context.Context) ([]issuerKey, error)
	pace    keyPace
	logger  *zap.Logger
	metrics *issuerMetrics
	keys    atomic.Pointer[[]issuerKey] // nil until they have been read once
	wake    chan struct{}               // has an entry when a fetch is wanted now

	mu       sync.Mutex
	fetching chan struct{} // guarded by mu; closed when the fetch that is due or under way ends; nil if none is
	ended    time.Time     // guarded by mu; when the last fetch ended
}

func newKeySet(
	fetch func(ctx context.Context) ([]issuerKey, error), logger *zap.Logger, metrics *issuerMetrics,
) *keySet {
	return &keySet{fetch: fetch, pace: defaultKeyPace, logger: logger, metrics: metrics, wake: make(chan struct{}, 1)}
}

func (s *keySet) wasRead() bool { return s.keys.Load() != nil }

// find returns the key that a token with this key id, or with none, must be signed
// with. It returns nil if there is no such key, or more than one.
func (s *keySet) find(id *string, alg string) (found *issuerKey) {
	keys := s.keys.Load()
	if keys == nil {
		return nil
	}
	for i := range *keys {
		key := &(*keys)[i]
		if !key.fits(alg) || id != nil && *id != key.id {
			continue
		}
		if found != nil {
			return nil
		}
		found = key
	}
	return found
}

// has reports whether a key is still in the set.
func (s *keySet) has(key *issuerKey) bool {
	keys := s.keys.Load()
	return keys != nil && slices.ContainsFunc(*keys, func(k issuerKey) bool { return k.equal(key) })
}

// refetch asks for a fetch on behalf of a request that misses a key, and waits a short
// time for its end. It does nothing shortly after a fetch: tokens that strangers make
// up must not cause fetch after fetch.
func (s *keySet) refetch(ctx context.Context) {
	fetched := s.demand()
	if fetched == nil {
		return
	}
	timer := time.NewTimer(s.pace.patience)
	defer timer.Stop()
	select {
	case <-fetched:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// demand returns a channel that is closed at the end of the fetch that is under way, or
// of one that it asks for. It returns nil if it is too early for another fetch.
func (s *keySet) demand() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fetching == nil {
		if time.Since(s.ended) < s.pace.cooldown {
			return nil
		}
		s.fetching = make(chan struct{})
		s.wake <- struct{}{} // begin has taken the one before
	}
	return s.fetching
}

func (s *keySet) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.wake:
	default:
	}
	if s.fetching == nil {
		s.fetching = make(chan struct{})
	}
}

func (s *keySet) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = time.Now()
	close(s.fetching)
	s.fetching = nil
}

// run keeps up with the keys until ctx ends.
func (s *keySet) run(ctx context.Context) {
	failing := false
	wait := time.Duration(0)
	for {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.wake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
		s.begin()
		err := s.read(ctx)
		s.end()
		wait = s.pace.every
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && failing:
			s.logger.Info("the keys of the external issuer can be read again")
		case err != nil && !failing && s.wasRead():
			s.logger.Warn("cannot read the keys of the external issuer, using those read before", zap.Error(err))
		case err != nil && !failing:
			s.logger.Warn("cannot read the keys of the external issuer, its tokens get 503 until they are read",
				zap.Error(err))
		}
		if failing = err != nil; failing {
			wait = s.pace.cooldown
		}
	}
}

func (s *keySet) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.pace.timeout)
	defer cancel()
	fresh, err := s.fetch(ctx)
	if err != nil {
		s.metrics.fetches.WithLabelValues("failed").Inc()
		return err
	}
	s.metrics.fetches.WithLabelValues("read").Inc()
	s.metrics.read.SetToCurrentTime()
	old := s.keys.Swap(&fresh)
	if old == nil || !slices.EqualFunc(*old, fresh, func(a, b issuerKey) bool { return a.equal(&b) }) {
		s.logger.Info("the keys of the external issuer have changed", zap.Strings("kids", keyIDs(fresh)))
	}
	return nil
}

func keyIDs(keys []issuerKey) []string {
	ids := make([]string, len(keys))
	for i, key := range keys {
		ids[i] = key.id
	}
	return ids
}
