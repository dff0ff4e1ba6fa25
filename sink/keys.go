package sink

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/jackc/pgx/v5"
)

// KeyKept is how long a signing key is kept after its last token. Access tokens expire
// after an hour, so all of its tokens have expired by then.
const KeyKept = time.Hour + 5*time.Minute

// keyRead is the maximum time until all fronts have read a new key.
const keyRead = 5 * time.Second

// Errors of [Store.RotateKey] and [Store.DropKey].
var (
	ErrNoKey      = errors.New("no signing key has this id")
	ErrKeySigns   = errors.New("the key signs access tokens now")
	ErrKeyWaiting = errors.New("another key is waiting to sign; drop it first, or wait until it signs")
)

// A SigningKey is a key that the fronts sign access tokens with. Its times are
// those of Postgres's clock.
type SigningKey struct {
	// ID is the key's thumbprint (RFC 7638), the kid of its tokens.
	ID        string
	Private   *ecdsa.PrivateKey
	CreatedAt time.Time
	// SignsFrom is when the key begins to sign. Until then it is only published.
	SignsFrom time.Time
	// SignsUntil is when the next key begins to sign, zero if there is none.
	SignsUntil time.Time

	number int32 // signing_keys.id
}

// Signs reports whether the key signs at t.
func (k *SigningKey) Signs(t time.Time) bool {
	return !t.Before(k.SignsFrom) && (k.SignsUntil.IsZero() || t.Before(k.SignsUntil))
}

// SigningKeys returns the keys whose tokens are valid, at least one, in the order in
// which they sign, and the time of Postgres's clock.
func (s *Store) SigningKeys(ctx context.Context) (keys []SigningKey, now time.Time, err error) {
	keys, now, err = readSigningKeys(ctx, s.pool)
	if err == nil && len(keys) == 0 {
		err = errors.New("there is none; run intake migrate, which makes one")
	}
	if err != nil {
		return nil, now, fmt.Errorf("read the signing keys: %w", err)
	}
	return keys, now, nil
}

func readSigningKeys(ctx context.Context, db querier) (keys []SigningKey, now time.Time, err error) {
	const query = `
		select id, pkcs8, created_at, signs_from, signs_until, clock_timestamp()
		  from signing_keys
		 where signs_until is null or signs_until > clock_timestamp() - $1::interval
		 order by signs_from, id`
	rows, err := db.Query(ctx, query, KeyKept)
	if err != nil {
		return nil, now, err
	}
	keys, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (k SigningKey, err error) {
		var pkcs8 []byte
		var until *time.Time
		if err := row.Scan(&k.number, &pkcs8, &k.CreatedAt, &k.SignsFrom, &until, &now); err != nil {
			return k, err
		}
		if until != nil {
			k.SignsUntil = *until
		}
		if k.Private, err = parseKey(pkcs8); err != nil {
			return k, fmt.Errorf("key %d: %w", k.number, err)
		}
		k.ID, err = thumbprint(k.Private)
		return k, err
	})
	return keys, now, err
}

// RotateKey makes a key that is published immediately and that signs once after has
// passed. The key that signs now stops then. RotateKey returns [ErrKeyWaiting] if
// another key is waiting to sign.
func (s *Store) RotateKey(ctx context.Context, after time.Duration) (fresh SigningKey, err error) {
	err = s.changeKeys(ctx, func(tx pgx.Tx, keys []SigningKey, now time.Time) error {
		if slices.ContainsFunc(keys, func(k SigningKey) bool { return k.SignsFrom.After(now) }) {
			return ErrKeyWaiting
		}
		const clean = "delete from signing_keys where signs_until < clock_timestamp() - $1::interval"
		if _, err := tx.Exec(ctx, clean, KeyKept); err != nil {
			return err
		}
		fresh.SignsFrom = now.Add(after)
		if _, err := tx.Exec(ctx, "update signing_keys set signs_until = $1 where signs_until is null",
			fresh.SignsFrom); err != nil {
			return err
		}
		return insertKey(ctx, tx, &fresh)
	})
	return fresh, err
}

// DropKey deletes a key. All fronts refuse its tokens within 5 s. It deletes the key that
// signs only if evenSigning is set, and returns [ErrKeySigns] otherwise. The waiting key,
// or else a new one, then signs as soon as all fronts have read it. DropKey returns that
// key, or nil if the deleted one did not sign. It returns [ErrNoKey] for an unknown id.
func (s *Store) DropKey(ctx context.Context, id string, evenSigning bool) (next *SigningKey, err error) {
	err = s.changeKeys(ctx, func(tx pgx.Tx, keys []SigningKey, now time.Time) error {
		at := slices.IndexFunc(keys, func(k SigningKey) bool { return k.ID == id })
		if at < 0 {
			return ErrNoKey
		}
		key := &keys[at]
		if _, err := tx.Exec(ctx, "delete from signing_keys where id = $1", key.number); err != nil {
			return err
		}
		switch {
		case key.Signs(now) && !evenSigning:
			return ErrKeySigns
		case key.Signs(now) && at+1 < len(keys):
			next = &keys[at+1]
			const hurry = "update signing_keys set signs_from = least(signs_from, $2) where id = $1 returning signs_from"
			return tx.QueryRow(ctx, hurry, next.number, now.Add(keyRead)).Scan(&next.SignsFrom)
		case key.SignsFrom.After(now) && at > 0 && keys[at-1].Signs(now):
			_, err := tx.Exec(ctx, "update signing_keys set signs_until = null where id = $1", keys[at-1].number)
			return err
		case key.Signs(now), key.SignsFrom.After(now):
			next = &SigningKey{SignsFrom: now.Add(keyRead)}
			return insertKey(ctx, tx, next)
		}
		return nil
	})
	return next, err
}

// changeKeys calls change in a transaction that locks the signing keys.
func (s *Store) changeKeys(ctx context.Context, change func(tx pgx.Tx, keys []SigningKey, now time.Time) error) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		keys, now, err := lockKeys(ctx, tx)
		if err != nil {
			return err
		}
		return change(tx, keys, now)
	})
	if err != nil {
		return fmt.Errorf("change the signing keys: %w", err)
	}
	return nil
}

// lockKeys locks the signing keys for tx, and returns them with the time.
func lockKeys(ctx context.Context, tx pgx.Tx) (keys []SigningKey, now time.Time, err error) {
	if _, err := tx.Exec(ctx, "lock table signing_keys in share row exclusive mode"); err != nil {
		return nil, now, err
	}
	if keys, _, err = readSigningKeys(ctx, tx); err != nil {
		return nil, now, err
	}
	err = tx.QueryRow(ctx, "select clock_timestamp()").Scan(&now)
	return keys, now, err
}

// makeFirstKey makes a key if there is none.
func makeFirstKey(ctx context.Context, tx pgx.Tx) error {
	keys, now, err := lockKeys(ctx, tx)
	if err != nil || len(keys) > 0 {
		return err
	}
	return insertKey(ctx, tx, &SigningKey{SignsFrom: now})
}

// insertKey makes the key that signs from k.SignsFrom on.
func insertKey(ctx context.Context, tx pgx.Tx, k *SigningKey) (err error) {
	if k.Private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k.Private)
	if err != nil {
		return err
	}
	if k.ID, err = thumbprint(k.Private); err != nil {
		return err
	}
	const insert = `
		insert into signing_keys (id, pkcs8, signs_from)
		select coalesce(max(id), 0) + 1, $1, $2 from signing_keys
		returning id, created_at`
	return tx.QueryRow(ctx, insert, pkcs8, k.SignsFrom).Scan(&k.number, &k.CreatedAt)
}

func parseKey(pkcs8 []byte) (*ecdsa.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("it is not one of P-256")
	}
	return key, nil
}

func thumbprint(key *ecdsa.PrivateKey) (string, error) {
	jwk := jose.JSONWebKey{Key: &key.PublicKey}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}
