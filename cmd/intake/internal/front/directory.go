package front

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"

	"intake/sink"
)

// A directory is who may come in, and the key of the tokens that the front issues
// them; it has none where the built-in issuer is off. It never changes;
// a new one takes its place.
type directory struct {
	partners map[string]*sink.PartnerRecord // by name
	key      *ecdsa.PrivateKey
	keyID    string // the key's thumbprint (RFC 7638)
}

// Reload reads the partners.
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
	if old := f.directory.Load(); old != nil {
		fresh.key, fresh.keyID = old.key, old.keyID
	} else if !f.opts.NoBuiltinIssuer {
		if err := fresh.readKey(ctx, f.opts.Registry); err != nil {
			return err
		}
	}
	f.directory.Store(fresh)
	return nil
}

func (d *directory) readKey(ctx context.Context, registry Registry) error {
	der, err := registry.SigningKey(ctx, func() ([]byte, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return x509.MarshalPKCS8PrivateKey(key)
	})
	if err != nil {
		return err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return fmt.Errorf("read the signing key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return errors.New("the signing key is not one of P-256")
	}
	d.key = key
	x, y, err := coordinates(&key.PublicKey)
	if err != nil {
		return err
	}
	thumbprint := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + x + `","y":"` + y + `"}`))
	d.keyID = base64.RawURLEncoding.EncodeToString(thumbprint[:])
	return nil
}

// coordinates are a key's as a JWK has them (RFC 7518 §6.2.1).
func coordinates(key *ecdsa.PublicKey) (x, y string, err error) {
	point, err := key.Bytes() // 4, X, Y
	if err != nil {
		return "", "", err
	}
	return base64.RawURLEncoding.EncodeToString(point[1:33]), base64.RawURLEncoding.EncodeToString(point[33:]), nil
}
