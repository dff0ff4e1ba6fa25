// Package authtest is what tests of authentication need: partners and signing keys in
// memory, and an external issuer of another make.
package authtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	"intake"
	"intake/cmd/intake/internal/auth"
	"intake/sink"
)

// A Registry is an [auth.Registry] in memory, which can be made to fail. It is safe for
// concurrent use.
type Registry struct {
	mu      sync.Mutex
	records []sink.PartnerRecord
	keys    []sink.SigningKey
	ahead   time.Duration // of this process's clock
	away    bool
	reads   int
}

var errAway = errors.New("the data store is unavailable")

// Partners implements [auth.Registry].
func (r *Registry) Partners(context.Context) ([]sink.PartnerRecord, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	if r.away {
		return nil, errAway
	}
	return slices.Clone(r.records), nil
}

// SigningKeys implements [auth.Registry].
func (r *Registry) SigningKeys(context.Context) ([]sink.SigningKey, time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		return nil, time.Time{}, errAway
	}
	now := time.Now().Add(r.ahead)
	if r.keys == nil {
		r.keys = []sink.SigningKey{NewSigningKey(now.Add(-time.Hour))}
	}
	return slices.Clone(r.keys), now, nil
}

// NewSigningKey returns a key that signs from a time on.
func NewSigningKey(from time.Time) sink.SigningKey {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return sink.SigningKey{ID: "key-" + rand.Text(), Private: private, SignsFrom: from}
}

// Keys returns the signing keys; none before they were read once.
func (r *Registry) Keys() []sink.SigningKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.keys)
}

// ChangeKeys replaces the signing keys, at a time of the registry's clock.
func (r *Registry) ChangeKeys(change func(keys []sink.SigningKey, now time.Time) []sink.SigningKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = change(r.keys, time.Now().Add(r.ahead))
}

// SetClock sets by how much the registry's clock is ahead.
func (r *Registry) SetClock(ahead time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ahead = ahead
}

// Add adds a partner, and returns its secret.
func (r *Registry) Add(name string) (secret string) {
	secret, hash := auth.NewSecret()
	r.mu.Lock()
	defer r.mu.Unlock()
	id := int32(len(r.records) + 1)
	r.records = append(r.records, sink.PartnerRecord{
		Partner: intake.Partner{ID: id, Name: name, Currency: "GBP"}, SecretHash: hash,
	})
	return secret
}

// Change changes a partner.
func (r *Registry) Change(name string, change func(*sink.PartnerRecord)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.records {
		if r.records[i].Name == name {
			change(&r.records[i])
			return
		}
	}
	panic("there is no partner " + name)
}

// SetAway makes all reads fail, or succeed again.
func (r *Registry) SetAway(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
}

// Reads returns how often the partners were read.
func (r *Registry) Reads() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reads
}
