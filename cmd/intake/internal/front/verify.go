package front

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"intake"
)

// authenticate finds out who sends a request, and that they may (RFC 6750). If
// not, it has answered. What else it returns is the token, for [Front.holderOf] later.
func (f *Front) authenticate(w http.ResponseWriter, r *http.Request, scope string) (intake.Partner, *pass, bool) {
	directory := f.directory.Load()
	if directory == nil {
		writeProblem(w, problem{code: codeStarting, retryAfter: time.Second, detail: "the partners are not read yet"})
		return intake.Partner{}, nil, false
	}
	refuse := func(code problemCode, challenge, detail string) (intake.Partner, *pass, bool) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="intake"`+challenge)
		writeProblem(w, problem{code: code, detail: detail})
		return intake.Partner{}, nil, false
	}
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return refuse(codeTokenMissing, "", "an access token is needed: Authorization: Bearer …")
	}
	kind, token, ok := strings.Cut(headers[0], " ")
	if !ok || len(headers) > 1 || !strings.EqualFold(kind, "Bearer") {
		return refuse(codeBadAuthorization, `, error="invalid_request"`, "Authorization must be given once, as Bearer and an access token")
	}
	pass, err := f.verify(r.Context(), directory, strings.TrimSpace(token))
	if errors.Is(err, errKeysUnread) {
		writeProblem(w, problem{code: codeIssuerUnavailable, retryAfter: f.issuer.keys.pace.cooldown, detail: errKeysUnread.Error()})
		return intake.Partner{}, nil, false
	}
	if err != nil {
		code, detail := codeTokenInvalid, tokenInvalid
		if errors.Is(err, jwt.ErrTokenExpired) {
			code, detail = codeTokenExpired, tokenExpired
		}
		return refuse(code, `, error="invalid_token", error_description="`+detail+`"`, detail)
	}
	partner, ok := directory.partnerOf(pass)
	if !ok {
		return refuse(codePartnerRefused, `, error="invalid_token"`, partnerRefused)
	}
	if !slices.Contains(pass.scopes, scope) {
		return refuse(codeScopeMissing, `, error="insufficient_scope", scope="`+scope+`"`, "the access token lacks the scope "+scope)
	}
	return partner, pass, true
}

// What is wrong with a token.
const (
	tokenInvalid   = "the access token is not valid"
	tokenExpired   = "the access token has expired"
	partnerRefused = "the access token's partner may not come in"
)

// holderOf returns the partner that a verified token is of, as it is known now, or why
// the token lets it in no more.
func (f *Front) holderOf(p *pass) (intake.Partner, *problem) {
	directory := f.directory.Load()
	code, detail := codePartnerRefused, partnerRefused
	switch {
	case p.hasExpired():
		code, detail = codeTokenExpired, tokenExpired
	case p.isOver(directory):
		code, detail = codeTokenInvalid, tokenInvalid
	default:
		if partner, ok := directory.partnerOf(p); ok {
			return partner, nil
		}
	}
	return intake.Partner{}, &problem{code: code, detail: detail + "; nothing from this line on was saved or queued"}
}

const clockLeeway = time.Minute

// A pass is what a verified token says.
type pass struct {
	partner string
	// number is the partner's; 0 where the token has only the name.
	number  int32
	scopes  []string
	expires time.Time
	issuer  *issuer // nil: the built-in one
	key     *issuerKey
	keyID   string // of the built-in issuer
}

// isOver reports whether the pass is no longer valid: it has expired, or its
// issuer has withdrawn the key that it was signed with.
func (p *pass) isOver(d *directory) bool {
	if p.hasExpired() {
		return true
	}
	if p.issuer == nil {
		return d.key(p.keyID) == nil
	}
	return !p.issuer.keys.has(p.key)
}

func (p *pass) hasExpired() bool { return time.Now().After(p.expires.Add(clockLeeway)) }

// verify checks a token, by the rules of the issuer that it says it is from.
func (f *Front) verify(ctx context.Context, d *directory, token string) (*pass, error) {
	if p := f.tokens.get(token, d); p != nil {
		return p, nil
	}
	var p *pass
	var err error
	if f.issuer != nil && (f.opts.NoBuiltinIssuer || issuerOf(token) == f.issuer.URL) {
		p, err = f.issuer.verify(ctx, token)
	} else {
		p, err = f.verifyOwn(d, token)
	}
	if err != nil {
		return nil, err
	}
	if intake.ValidPartnerName(p.partner) { // another may be of any length
		f.tokens.put(token, p)
	}
	return p, nil
}

// verifyOwn checks a token that the front must have issued, as RFC 9068 §4 has it.
func (f *Front) verifyOwn(d *directory, token string) (*pass, error) {
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
		jwt.WithIssuer(f.opts.PublicURL), jwt.WithAudience(f.opts.PublicURL),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(clockLeeway), jwt.WithStrictDecoding())
	if err != nil {
		return nil, err
	}
	if !parsed.Valid || c.Subject == "" || c.Partner == 0 {
		return nil, jwt.ErrTokenInvalidClaims
	}
	return &pass{
		partner: c.Subject, number: c.Partner, scopes: knownScopes(strings.Fields(c.Scope)), expires: c.ExpiresAt.Time,
		keyID: parsed.Header["kid"].(string), // a key was found by it
	}, nil
}

// knownScopes returns those of the front's own scopes that are among others, so that
// nothing else of a token is kept.
func knownScopes(scopes []string) (known []string) {
	for _, scope := range []string{scopeWrite, scopeRead} {
		if slices.Contains(scopes, scope) {
			known = append(known, scope)
		}
	}
	return known
}

// A tokenCache keeps tokens that were verified, so that a signature is checked
// once. Whether its partner may still come in is asked each time.
type tokenCache struct {
	mu     sync.Mutex
	passes map[[32]byte]*pass // guarded by mu; by the token's SHA-256
}

// maxTokens bounds the cache. Only tokens that were verified get into it.
const maxTokens = 10_000

func (c *tokenCache) get(token string, d *directory) *pass {
	key := sha256.Sum256([]byte(token))
	c.mu.Lock()
	defer c.mu.Unlock()
	found := c.passes[key]
	if found != nil && found.isOver(d) {
		delete(c.passes, key)
		return nil
	}
	return found
}

func (c *tokenCache) put(token string, verified *pass) {
	key := sha256.Sum256([]byte(token))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.passes == nil || len(c.passes) >= maxTokens {
		c.passes = make(map[[32]byte]*pass)
	}
	c.passes[key] = verified
}
