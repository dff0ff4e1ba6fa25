package front

import (
	"context"
	"crypto/ecdsa"
	"time"

	"intake/sink"
)

// A directory is who may come in, and the keys of the tokens that the front issues
// them; it has none where the built-in issuer is off. It never changes;
// a new one takes its place.
type directory struct {
	partners map[string]*sink.PartnerRecord // by name
	keys     []signingKey                   // in the order in which they sign
}

// A signingKey is a key of the built-in issuer. Its times are by this process's
// clock, so that a front changes keys in time even if it can't read them then.
type signingKey struct {
	id                    string // its thumbprint (RFC 7638)
	private               *ecdsa.PrivateKey
	signsFrom, signsUntil time.Time // signsUntil is zero if no other key follows
}

// A front signs with a key for a little too long at most, and the tokens are valid
// for their lifetime after that.
const _ = uint64(sink.KeyKept - tokenLifetime - clockLeeway - 2*directoryEvery)

// Reload reads the partners and the keys.
func (f *Front) Reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, directoryEvery)
	defer cancel()
	records, err := f.opts.Registry.Partners(ctx)
	if err != nil {
		return err
	}
	fresh := &directory{partners: make(map[string]*sink.PartnerRecord, len(records))}
	for i := range records {
		fresh.partners[records[i].Name] = &records[i]
	}
	if !f.opts.NoBuiltinIssuer {
		if err := fresh.readKeys(ctx, f.opts.Registry); err != nil {
			return err
		}
	}
	f.directory.Store(fresh)
	return nil
}

func (d *directory) readKeys(ctx context.Context, registry Registry) error {
	keys, thereNow, err := registry.SigningKeys(ctx)
	if err != nil {
		return err
	}
	// Late by as long as the answer took: a key must not sign too early.
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

// signer returns the key that signs now. It is nil for a moment when the one that
// did was dropped.
func (d *directory) signer() (signer *signingKey) {
	now := time.Now()
	for i := range d.keys {
		if k := &d.keys[i]; !now.Before(k.signsFrom) && (k.signsUntil.IsZero() || now.Before(k.signsUntil)) {
			signer = k
		}
	}
	return signer
}

// key returns the key of an id whose tokens are valid, nil if there is none.
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
