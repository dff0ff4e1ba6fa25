package front

import (
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
// not, it has answered.
func (f *Front) authenticate(w http.ResponseWriter, r *http.Request, scope string) (intake.Partner, bool) {
	directory := f.directory.Load()
	if directory == nil {
		writeProblem(w, problem{status: http.StatusServiceUnavailable, retryAfter: time.Second, detail: "the partners are not read yet"})
		return intake.Partner{}, false
	}
	refuse := func(status int, challenge, detail string) (intake.Partner, bool) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="intake"`+challenge)
		writeProblem(w, problem{status: status, detail: detail})
		return intake.Partner{}, false
	}
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return refuse(http.StatusUnauthorized, "", "an access token is needed: Authorization: Bearer …")
	}
	kind, token, ok := strings.Cut(headers[0], " ")
	if !ok || len(headers) > 1 || !strings.EqualFold(kind, "Bearer") {
		return refuse(http.StatusUnauthorized, `, error="invalid_request"`, "Authorization must be given once, as Bearer and an access token")
	}
	c, err := f.verify(directory, strings.TrimSpace(token))
	if err != nil {
		detail := "the access token is not valid"
		if errors.Is(err, jwt.ErrTokenExpired) {
			detail = "the access token has expired"
		}
		return refuse(http.StatusUnauthorized, `, error="invalid_token", error_description="`+detail+`"`, detail)
	}
	partner, ok := directory.partnerOf(c)
	if !ok {
		return refuse(http.StatusUnauthorized, `, error="invalid_token"`, "the access token's partner may not come in")
	}
	if !slices.Contains(strings.Fields(c.Scope), scope) {
		return refuse(http.StatusForbidden, `, error="insufficient_scope", scope="`+scope+`"`, "the access token lacks the scope "+scope)
	}
	return partner, true
}

const clockLeeway = time.Minute

// verify checks a token as RFC 9068 §4 has it.
func (f *Front) verify(d *directory, token string) (*claims, error) {
	if c := f.tokens.get(token); c != nil {
		return c, nil
	}
	c := new(claims)
	parsed, err := jwt.ParseWithClaims(token, c, func(t *jwt.Token) (any, error) {
		typ, _ := t.Header["typ"].(string)
		if typ = strings.ToLower(typ); typ != "at+jwt" && typ != "application/at+jwt" {
			return nil, fmt.Errorf("the token's type is %q", typ)
		}
		if t.Header["kid"] != d.keyID {
			return nil, errors.New("the token is signed with another key")
		}
		return &d.key.PublicKey, nil
	},
		jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}),
		jwt.WithIssuer(f.opts.PublicURL), jwt.WithAudience(f.opts.PublicURL),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(clockLeeway), jwt.WithStrictDecoding())
	if err != nil {
		return nil, err
	}
	if !parsed.Valid || c.Subject == "" {
		return nil, jwt.ErrTokenInvalidClaims
	}
	f.tokens.put(token, c)
	return c, nil
}

// A tokenCache keeps tokens that were verified, so that a signature is checked
// once. Whether its partner may still come in is asked each time.
type tokenCache struct {
	mu     sync.Mutex
	claims map[[32]byte]*claims // guarded by mu; by the token's SHA-256
}

// maxTokens bounds the cache. Only tokens that were issued here get into it.
const maxTokens = 10_000

func (c *tokenCache) get(token string) *claims {
	key := sha256.Sum256([]byte(token))
	c.mu.Lock()
	defer c.mu.Unlock()
	found := c.claims[key]
	if found != nil && time.Now().After(found.ExpiresAt.Add(clockLeeway)) {
		delete(c.claims, key)
		return nil
	}
	return found
}

func (c *tokenCache) put(token string, verified *claims) {
	key := sha256.Sum256([]byte(token))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.claims == nil || len(c.claims) >= maxTokens {
		c.claims = make(map[[32]byte]*claims)
	}
	c.claims[key] = verified
}
