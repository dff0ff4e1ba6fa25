package auth

import (
	"context"
	"crypto/ecdsa"
	"time"

	"intake"
	"intake/sink"
)

// A directory is the partners, and the signing keys of the built-in issuer; it has no
// keys where that is off. A directory never changes: a new one replaces it.
type directory struct {
	partners map[string]*sink.PartnerRecord // by name
	keys     []signingKey                   // in the order in which they sign
}

// A signingKey is a key of the built-in issuer. Its times are by this process's clock,
// so that keys change in time even when they can't be read at that moment.
type signingKey struct {
	id                    string // its thumbprint (RFC 7638)
	private               *ecdsa.PrivateKey
	signsFrom, signsUntil time.Time // signsUntil is zero if no other key follows
}

// A key is kept for longer than any token that it has signed is valid. A process may
// sign with it for a little too long, until it has read the keys again; hence twice
// the interval. The conversion fails to compile if the difference is negative.
const _ = uint64(sink.KeyKept - tokenLifetime - clockLeeway - 2*ReloadInterval)

// Reload reads the partners and the keys.
func (a *Authenticator) Reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ReloadInterval)
	defer cancel()
	records, err := a.opts.Registry.Partners(ctx)
	if err != nil {
		return err
	}
	fresh := &directory{partners: make(map[string]*sink.PartnerRecord, len(records))}
	for i := range records {
		fresh.partners[records[i].Name] = &records[i]
	}
	if !a.opts.NoBuiltinIssuer {
		if err := fresh.readKeys(ctx, a.opts.Registry); err != nil {
			return err
		}
	}
	a.directory.Store(fresh)
	return nil
}

func (d *directory) readKeys(ctx context.Context, registry Registry) error {
	keys, thereNow, err := registry.SigningKeys(ctx)
	if err != nil {
		return err
	}
	// now is late by the time that the answer took: a key must not sign too early.
	now := time.Now()
	for _, k := range keys {
		key := signingKey{id: k.ID, private: k.Private, signsFrom: now.Add(k.SignsFrom.Sub(thereNow))}
		if !k.SignsUntil.IsZero() {
			key.signsUntil = now.Add(k.SignsUntil.Sub(thereNow))
		}
		d.keys = append(d.keys, key)
	}
	return nil
}

// signer returns the key that signs now. It is nil for a moment after the key that
// signed was dropped.
func (d *directory) signer() (signer *signingKey) {
	now := time.Now()
	for i := range d.keys {
		if k := &d.keys[i]; !now.Before(k.signsFrom) && (k.signsUntil.IsZero() || now.Before(k.signsUntil)) {
			signer = k
		}
	}
	return signer
}

// key returns the key of an id, nil if there is none whose tokens are still valid.
func (d *directory) key(id string) *signingKey {
	for i := range d.keys {
		if k := &d.keys[i]; k.id == id && !k.isOver() {
			return k
		}
	}
	return nil
}

// isOver reports whether all tokens of the key have expired.
func (k *signingKey) isOver() bool {
	return !k.signsUntil.IsZero() && time.Since(k.signsUntil) > sink.KeyKept
}

// partnerOf returns the partner that a token names, if it is known and enabled.
func (d *directory) partnerOf(t *verifiedToken) (intake.Partner, bool) {
	partner := d.partners[t.partner]
	if partner == nil || partner.Disabled || t.number != 0 && t.number != partner.ID {
		return intake.Partner{}, false
	}
	return partner.Partner, true
}
