package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"intake"
)

// clockLeeway is by how much the clock of an issuer may differ from this one.
const clockLeeway = time.Minute

// A verifiedToken is what a token says whose signature was checked.
type verifiedToken struct {
	partner string
	// number is the partner's; 0 where the token has only the name.
	number  int32
	scopes  []string
	expires time.Time
	issuer  *issuer    // nil: the built-in one
	key     *issuerKey // of the external issuer
	keyID   string     // of the built-in issuer
}

// isOver reports whether the token is no longer valid: it has expired, or its issuer
// has withdrawn the key that it was signed with.
func (t *verifiedToken) isOver(d *directory) bool {
	if t.hasExpired() {
		return true
	}
	if t.issuer == nil {
		return d.key(t.keyID) == nil
	}
	return !t.issuer.keys.has(t.key)
}

func (t *verifiedToken) hasExpired() bool { return time.Now().After(t.expires.Add(clockLeeway)) }

// verify checks a token by the rules of the issuer that it names.
func (a *Authenticator) verify(ctx context.Context, d *directory, token string) (verified *verifiedToken, err error) {
	if known := a.tokens.get(token, d); known != nil {
		return known, nil
	}
	if a.issuer != nil && (a.opts.NoBuiltinIssuer || issuerOf(token) == a.issuer.URL) {
		verified, err = a.issuer.verify(ctx, token)
	} else {
		verified, err = a.verifyOwn(d, token)
	}
	if err != nil {
		return nil, err
	}
	if intake.ValidPartnerName(verified.partner) { // an invalid one may be of any length
		a.tokens.put(token, verified)
	}
	return verified, nil
}

// verifyOwn checks a token that the built-in issuer must have issued (RFC 9068 §4).
func (a *Authenticator) verifyOwn(d *directory, token string) (*verifiedToken, error) {
	c := new(claims)
	parsed, err := jwt.ParseWithClaims(token, c, func(t *jwt.Token) (any, error) {
		typ, _ := t.Header["typ"].(string)
		if typ = strings.ToLower(typ); typ != "at+jwt" && typ != "application/at+jwt" {
			return nil, fmt.Errorf("the token's type is %q", typ)
		}
		id, _ := t.Header["kid"].(string)
		key := d.key(id)
		if key == nil {
			return nil, errors.New("the token is signed with another key")
		}
		return &key.private.PublicKey, nil
	},
		jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}),
		jwt.WithIssuer(a.opts.PublicURL), jwt.WithAudience(a.opts.PublicURL),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(clockLeeway), jwt.WithStrictDecoding())
	if err != nil {
		return nil, err
	}
	if !parsed.Valid || c.Subject == "" || c.Partner == 0 {
		return nil, jwt.ErrTokenInvalidClaims
	}
	return &verifiedToken{
		partner: c.Subject, number: c.Partner, scopes: knownScopes(strings.Fields(c.Scope)), expires: c.ExpiresAt.Time,
		keyID: parsed.Header["kid"].(string), // a key was found by it
	}, nil
}

// knownScopes returns the known ones of a token's scopes, so that nothing else of the
// token is kept.
func knownScopes(scopes []string) (known []string) {
	for _, scope := range []string{ScopeWrite, ScopeRead} {
		if slices.Contains(scopes, scope) {
			known = append(known, scope)
		}
	}
	return known
}

// A tokenCache keeps verified tokens, so that each signature is checked once. Whether
// the token's partner is still enabled is looked up each time.
type tokenCache struct {
	mu     sync.Mutex
	tokens map[[32]byte]*verifiedToken // guarded by mu; by the token's SHA-256
}

// maxTokens bounds the cache. Only verified tokens get into it.
const maxTokens = 10_000

func (c *tokenCache) get(token string, d *directory) *verifiedToken {
	key := sha256.Sum256([]byte(token))
	c.mu.Lock()
	defer c.mu.Unlock()
	found := c.tokens[key]
	if found != nil && found.isOver(d) {
		delete(c.tokens, key)
		return nil
	}
	return found
}

func (c *tokenCache) put(token string, verified *verifiedToken) {
	key := sha256.Sum256([]byte(token))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tokens == nil || len(c.tokens) >= maxTokens {
		c.tokens = make(map[[32]byte]*verifiedToken)
	}
	c.tokens[key] = verified
}
