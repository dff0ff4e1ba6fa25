package authtest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// Secret is the secret of every client of an [Issuer].
const Secret = "the secret of every client"

// PublicURL is the audience of an [Issuer]'s tokens.
const PublicURL = "https://intake.example"

// An Issuer is an OpenID provider of another make, whose keys can change. It knows every
// client.
type Issuer struct {
	URL      string
	provider http.Handler

	mu      sync.Mutex
	keys    []IssuerKey                     // guarded by mu; the first one signs
	answer  func(*http.Request) (bool, int) // guarded by mu; may answer instead, with a status
	fetches []time.Time                     // guarded by mu; of keys
}

// NewIssuer returns an issuer of this URL. It is reached in memory, see [Issuer.RoundTrip].
func NewIssuer(t testing.TB, issuer string, keys ...IssuerKey) *Issuer {
	t.Helper()
	i := &Issuer{URL: issuer, keys: keys}
	provider, err := op.NewProvider(&op.Config{}, opStorage{issuer: i}, op.StaticIssuer(issuer), op.WithAllowInsecure())
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := url.Parse(issuer)
	if err != nil {
		t.Fatal(err)
	}
	i.provider = http.StripPrefix(strings.TrimSuffix(parsed.Path, "/"), provider)
	return i
}

// ServeHTTP implements [http.Handler].
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	if strings.HasSuffix(r.URL.Path, "/keys") {
		i.fetches = append(i.fetches, time.Now())
	}
	answer := i.answer
	i.mu.Unlock()
	if answer != nil {
		if answers, status := answer(r); answers {
			w.WriteHeader(status)
			return
		}
	}
	i.provider.ServeHTTP(w, r)
}

// RoundTrip reaches the issuer in memory.
func (i *Issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	return InMemory{i}.RoundTrip(r)
}

// InMemory reaches a handler without a network.
type InMemory struct{ http.Handler }

// RoundTrip implements [http.RoundTripper].
func (m InMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	served := r.Clone(r.Context())
	served.Host = r.URL.Host
	m.ServeHTTP(w, served)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	response := w.Result()
	response.Request = r
	return response, nil
}

// SetKeys replaces the keys. The first one signs.
func (i *Issuer) SetKeys(keys ...IssuerKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// SetAway makes every request be answered with a status; 0 ends that.
func (i *Issuer) SetAway(status int) {
	i.SetAnswer(func(*http.Request) (bool, int) { return status != 0, status })
}

// SetAnswer sets a function that may answer requests instead, with a status.
func (i *Issuer) SetAnswer(answer func(*http.Request) (bool, int)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

// Keys returns the keys.
func (i *Issuer) Keys() []IssuerKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys
}

// Fetches returns when the keys were fetched.
func (i *Issuer) Fetches() []time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]time.Time(nil), i.fetches...)
}

// Claims returns the claims of a valid token of the partner acme.
func (i *Issuer) Claims() jwt.MapClaims {
	now := time.Now()
	return jwt.MapClaims{"iss": i.URL, "aud": PublicURL, "sub": "acme", "client_id": "acme",
		"scope": "clients:write clients:read",
		"iat":   now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": rand.Text()}
}

// Token returns a valid token of the partner acme.
func (i *Issuer) Token(t testing.TB) string { return i.Keys()[0].Sign(t, i.Claims()) }

// An IssuerKey signs tokens.
type IssuerKey struct {
	KID     string
	Method  jwt.SigningMethod
	Private crypto.Signer
}

// NewKey returns a new key for a signing method.
func NewKey(t testing.TB, id string, method jwt.SigningMethod) IssuerKey {
	t.Helper()
	var private crypto.Signer
	var err error
	switch method.Alg() {
	case "ES256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "EdDSA":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return IssuerKey{KID: id, Method: method, Private: private}
}

// Sign signs an access token.
func (k IssuerKey) Sign(t testing.TB, claims jwt.Claims) string {
	return SignWith(t, k.Method, k.Private, claims, map[string]any{"kid": k.KID, "typ": "at+jwt"})
}

// SignWith signs a token with any key and header. A header that is nil is left out.
func SignWith(t testing.TB, method jwt.SigningMethod, key any, claims jwt.Claims, header map[string]any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	for name, value := range header {
		if token.Header[name] = value; value == nil {
			delete(token.Header, name)
		}
	}
	signed, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// What the provider needs of a key.

func (k IssuerKey) ID() string { return k.KID }
func (k IssuerKey) Algorithm() jose.SignatureAlgorithm {
	return jose.SignatureAlgorithm(k.Method.Alg())
}

func (k IssuerKey) SignatureAlgorithm() jose.SignatureAlgorithm { return k.Algorithm() }
func (k IssuerKey) Use() string                                 { return "sig" }
func (k IssuerKey) Key() any                                    { return k.Private }

type publicKey struct{ IssuerKey }

func (k publicKey) Key() any { return k.Private.Public() }

// opStorage is what the provider needs for client credentials.
type opStorage struct {
	op.Storage // nil: the rest is not used
	issuer     *Issuer
}

func (s opStorage) SigningKey(context.Context) (op.SigningKey, error) {
	return s.issuer.Keys()[0], nil
}

func (s opStorage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.ES256}, nil
}

func (s opStorage) KeySet(context.Context) (keys []op.Key, err error) {
	for _, key := range s.issuer.Keys() {
		keys = append(keys, publicKey{key})
	}
	return keys, nil
}

func (s opStorage) ClientCredentials(_ context.Context, id, secret string) (op.Client, error) {
	if secret != Secret {
		return nil, errors.New("wrong secret")
	}
	return opClient{id: id}, nil
}

func (s opStorage) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest,
	error) {
	return &oidc.JWTTokenRequest{Subject: "service account of " + id, Audience: []string{PublicURL}, Scopes: scopes},
		nil
}

func (s opStorage) CreateAccessToken(context.Context, op.TokenRequest) (string, time.Time, error) {
	return rand.Text(), time.Now().Add(time.Hour), nil
}

func (s opStorage) GetPrivateClaimsFromScopes(_ context.Context, _, _ string, scopes []string) (map[string]any, error) {
	return map[string]any{"scope": strings.Join(scopes, " ")}, nil
}

type opClient struct {
	op.Client // nil: the rest is not used
	id        string
}

func (c opClient) GetID() string                       { return c.id }
func (c opClient) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }
func (c opClient) ClockSkew() time.Duration            { return 0 }
func (c opClient) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeClientCredentials}
}

func (c opClient) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}
