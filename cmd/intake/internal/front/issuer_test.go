package front_test

import (
	"bytes"
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
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"intake/cmd/intake/internal/front"
	"intake/sink"
)

const issuerSecret = "the secret of every client"

// A testIssuer is an OpenID provider of another make, whose keys can change. It
// knows every client, and answers for publicURL.
type testIssuer struct {
	url      string
	provider http.Handler

	mu      sync.Mutex
	keys    []testKey                       // guarded by mu; the first one signs
	answer  func(*http.Request) (bool, int) // guarded by mu; may answer in its stead, with a status
	fetches []time.Time                     // guarded by mu; of keys
}

// newIssuer makes one that is reached in memory.
func newIssuer(t testing.TB, issuer string, keys ...testKey) *testIssuer {
	t.Helper()
	i := &testIssuer{url: issuer, keys: keys}
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

func (i *testIssuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
func (i *testIssuer) RoundTrip(r *http.Request) (*http.Response, error) {
	return inMemory{i}.RoundTrip(r)
}

// inMemory reaches a handler without a network.
type inMemory struct{ handler http.Handler }

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	served := r.Clone(r.Context())
	served.Host = r.URL.Host
	m.handler.ServeHTTP(w, served)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	response := w.Result()
	response.Request = r
	return response, nil
}

func (i *testIssuer) setKeys(keys ...testKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// setAway has every request answered with a status; 0: the issuer is back.
func (i *testIssuer) setAway(status int) {
	i.setAnswer(func(*http.Request) (bool, int) { return status != 0, status })
}

func (i *testIssuer) setAnswer(answer func(*http.Request) (bool, int)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

func (i *testIssuer) signing() []testKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys
}

func (i *testIssuer) fetched() []time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]time.Time(nil), i.fetches...)
}

// claims are those of a token that lets acme in.
func (i *testIssuer) claims() jwt.MapClaims {
	now := time.Now()
	return jwt.MapClaims{"iss": i.url, "aud": publicURL, "sub": "acme", "client_id": "acme", "scope": "clients:write clients:read",
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": rand.Text()}
}

// token is one that lets acme in.
func (i *testIssuer) token(t testing.TB) string { return i.signing()[0].sign(t, i.claims()) }

// A testKey signs tokens.
type testKey struct {
	id      string
	method  jwt.SigningMethod
	private crypto.Signer
}

func newKey(t testing.TB, id string, method jwt.SigningMethod) testKey {
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
	return testKey{id: id, method: method, private: private}
}

func (k testKey) sign(t testing.TB, claims jwt.Claims) string {
	return signWith(t, k.method, k.private, claims, map[string]any{"kid": k.id, "typ": "at+jwt"})
}

// signWith signs a token with a header; nil in it: left out.
func signWith(t testing.TB, method jwt.SigningMethod, key any, claims jwt.Claims, header map[string]any) string {
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

// The provider asks it for the key to sign with, and for those to show.
func (k testKey) ID() string                                  { return k.id }
func (k testKey) Algorithm() jose.SignatureAlgorithm          { return jose.SignatureAlgorithm(k.method.Alg()) }
func (k testKey) SignatureAlgorithm() jose.SignatureAlgorithm { return k.Algorithm() }
func (k testKey) Use() string                                 { return "sig" }
func (k testKey) Key() any                                    { return k.private }

type publicKey struct{ testKey }

func (k publicKey) Key() any { return k.private.Public() }

// opStorage is what the provider needs for client credentials.
type opStorage struct {
	op.Storage // nil: the rest is not used
	issuer     *testIssuer
}

func (s opStorage) SigningKey(context.Context) (op.SigningKey, error) {
	return s.issuer.signing()[0], nil
}

func (s opStorage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.ES256}, nil
}

func (s opStorage) KeySet(context.Context) (keys []op.Key, err error) {
	for _, key := range s.issuer.signing() {
		keys = append(keys, publicKey{key})
	}
	return keys, nil
}

func (s opStorage) ClientCredentials(_ context.Context, id, secret string) (op.Client, error) {
	if secret != issuerSecret {
		return nil, errors.New("wrong secret")
	}
	return opClient{id: id}, nil
}

func (s opStorage) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	return &oidc.JWTTokenRequest{Subject: "service account of " + id, Audience: []string{publicURL}, Scopes: scopes}, nil
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

// withIssuer makes a front that takes the tokens of an issuer, which is reached by
// transport if there is one, and keeps up with its keys until the test ends.
func withIssuer(t testing.TB, url string, transport http.RoundTripper, change func(*front.Options)) *testFront {
	t.Helper()
	f := newFront(t, func(o *front.Options) {
		o.Issuer.URL = url
		if change != nil {
			change(o)
		}
	})
	if transport != nil {
		f.SetIssuerTransport(transport)
	}
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	return f
}

// post sends a batch with a token, and gives the answer.
func (f *testFront) post(t testing.TB, token string) *answer {
	t.Helper()
	a := newAnswer()
	f.ServeHTTP(a, f.create(t, token, strings.NewReader(items("a"))))
	return a
}

// wantPost sends a batch with a token, and checks the status of the answer.
func (f *testFront) wantPost(t testing.TB, token string, status int) {
	t.Helper()
	if a := f.post(t, token); a.status != status {
		t.Errorf("answered %d %s, want %d", a.status, a.Bytes(), status)
	}
}

// Partners get in with tokens of another issuer, got the way that programs get
// them, and with those of the front.
func TestIssuer_ClientCredentials(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(nil)
	issuer := newIssuer(t, "http://"+server.Listener.Addr().String(), newKey(t, "1", jwt.SigningMethodES256))
	server.Config.Handler = issuer
	server.Start()
	t.Cleanup(server.Close)
	f := withIssuer(t, issuer.url, nil, nil)
	f.registry.add("gone")
	f.registry.mu.Lock()
	f.registry.records[1].Disabled = true
	f.registry.mu.Unlock()
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, client string
		scopes       []string
		style        oauth2.AuthStyle
		status       int
	}{
		{"in the header", "acme", []string{"clients:write"}, oauth2.AuthStyleInHeader, 200},
		{"in the body", "acme", []string{"clients:read", "clients:write"}, oauth2.AuthStyleInParams, 200},
		{"another scope", "acme", []string{"clients:read"}, oauth2.AuthStyleInHeader, 403},
		{"no scope", "acme", nil, oauth2.AuthStyleInHeader, 403},
		{"not a partner", "stranger", []string{"clients:write"}, oauth2.AuthStyleInHeader, 401},
		{"a disabled partner", "gone", []string{"clients:write"}, oauth2.AuthStyleInHeader, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := clientcredentials.Config{ClientID: c.client, ClientSecret: issuerSecret, TokenURL: issuer.url + "/oauth/token", Scopes: c.scopes, AuthStyle: c.style}
			token, err := config.Token(context.WithValue(t.Context(), oauth2.HTTPClient, server.Client()))
			if err != nil {
				t.Fatal(err)
			}
			f.wantPost(t, token.AccessToken, c.status)
		})
	}
	f.wantPost(t, f.token(t), http.StatusOK)
}

// With the built-in issuer off, the front issues nothing, and takes none of the
// tokens that it or another front has issued.
func TestIssuer_NoBuiltin(t *testing.T) {
	t.Parallel()
	issuer := newIssuer(t, "https://issuer.example", newKey(t, "1", jwt.SigningMethodES256))
	both := withIssuer(t, issuer.url, issuer, nil)
	f := withIssuer(t, issuer.url, issuer, func(o *front.Options) { o.Registry, o.NoBuiltinIssuer = both.registry, true })
	f.wantPost(t, issuer.token(t), http.StatusOK)
	f.wantPost(t, both.token(t), http.StatusUnauthorized)
	both.wantPost(t, both.token(t), http.StatusOK)
	for _, target := range []string{"POST /oauth/token", "GET /.well-known/jwks.json", "GET /.well-known/oauth-authorization-server"} {
		method, path, _ := strings.Cut(target, " ")
		request, _ := http.NewRequestWithContext(t.Context(), method, "http://front"+path, strings.NewReader("grant_type=client_credentials"))
		a := newAnswer()
		f.ServeHTTP(a, request)
		a.checkProblem(t, http.StatusNotFound, "")
	}
	alone := &fakeRegistry{}
	alone.add("acme")
	f = withIssuer(t, issuer.url, issuer, func(o *front.Options) { o.Registry, o.NoBuiltinIssuer = alone, true })
	f.wantPost(t, issuer.token(t), http.StatusOK)
	if alone.keys != nil {
		t.Error("the signing keys were read, which nothing is signed with")
	}
}

// Which partner a token is for, and what it may do, can stand in several claims.
func TestIssuer_Claims(t *testing.T) {
	t.Parallel()
	issuer := newIssuer(t, "https://issuer.example/tenant/", newKey(t, "1", jwt.SigningMethodES256))
	type claims = map[string]any // nil: left out
	for _, c := range []struct {
		name    string
		partner string // the claim that names it
		claims  claims
		status  int
	}{
		{"client_id by default", "", claims{"sub": "x"}, 200},
		{"azp", "azp", claims{"client_id": "x", "sub": "x", "azp": "acme"}, 200},
		{"sub", "sub", claims{"client_id": nil}, 200},
		{"another claim than the one that names it", "azp", nil, 401},
		{"no name", "", claims{"client_id": nil}, 401},
		{"an empty name", "", claims{"client_id": ""}, 401},
		{"a name that is no string", "", claims{"client_id": []string{"acme"}}, 401},
		{"a name but for its case", "", claims{"client_id": "Acme"}, 401},
		{"scp as a string", "", claims{"scope": nil, "scp": "x clients:write"}, 200},
		{"scp as an array", "", claims{"scope": nil, "scp": []string{"x", "clients:write"}}, 200},
		{"scp with something else in it", "", claims{"scope": nil, "scp": []any{1, nil, "clients:write"}}, 200},
		{"scp of another scope", "", claims{"scope": nil, "scp": []string{"clients:read"}}, 403},
		{"scp of scopes in one string", "", claims{"scope": nil, "scp": []string{"clients:read clients:write"}}, 403},
		{"scope before scp", "", claims{"scope": "clients:read", "scp": []string{"clients:write"}}, 403},
		{"a number as the scope", "", claims{"scope": 1}, 403},
		{"an intake_partner counts for nothing", "", claims{"intake_partner": 77}, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := withIssuer(t, issuer.url, issuer, func(o *front.Options) { o.Issuer.PartnerClaim = c.partner })
			all := issuer.claims()
			for name, value := range c.claims {
				if all[name] = value; value == nil {
					delete(all, name)
				}
			}
			token := issuer.signing()[0].sign(t, all)
			f.wantPost(t, token, c.status)
			f.wantPost(t, token, c.status)
		})
	}
	t.Run("another audience", func(t *testing.T) {
		t.Parallel()
		f := withIssuer(t, issuer.url, issuer, func(o *front.Options) { o.Issuer.Audience = "intake-api" })
		f.wantPost(t, issuer.token(t), http.StatusUnauthorized)
		all := issuer.claims()
		all["aud"] = []string{"x", "intake-api"}
		f.wantPost(t, issuer.signing()[0].sign(t, all), http.StatusOK)
	})
}

// A partner that is shut out stays out, whatever its issuer says.
func TestIssuer_Disabled(t *testing.T) {
	t.Parallel()
	issuer := newIssuer(t, "https://issuer.example", newKey(t, "1", jwt.SigningMethodES256))
	f := withIssuer(t, issuer.url, issuer, nil)
	token := issuer.token(t)
	f.wantPost(t, token, http.StatusOK)
	f.registry.change(func(p *sink.PartnerRecord) { p.Disabled = true })
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.wantPost(t, token, http.StatusUnauthorized)
}

func TestNew_Issuer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, url string
		noBuiltin bool
		says      string
	}{
		{"https", "https://issuer.example", false, ""},
		{"with a path", "https://issuer.example:8443/realms/partners/", false, ""},
		{"http to this machine", "http://127.0.0.1:8080", false, ""},
		{"http to this machine by name", "http://localhost", false, ""},
		{"http to this machine, IPv6", "http://[::1]:80", false, ""},
		{"the front's address, the built-in issuer off", publicURL, true, ""},
		{"http", "http://issuer.example", false, "https"},
		{"http to a name that begins like this machine's", "http://localhost.example", false, "https"},
		{"another scheme", "file://issuer.example/keys", false, "https"},
		{"no scheme", "issuer.example", false, "host"},
		{"a query", "https://issuer.example?x", false, "query"},
		{"an empty query", "https://issuer.example?", false, "query"},
		{"a fragment", "https://issuer.example#", false, "fragment"},
		{"a user", "https://me:secret@issuer.example", false, "user"},
		{"not a URL", "https://issuer example", false, "URL"},
		{"the front itself", publicURL, false, "the front itself"},
		{"none at all", "", true, "nobody could get in"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := front.New(front.Options{
				Queue: &fakeQueue{}, Ledger: &fakeLedger{}, Questions: &fakeLedger{}, SeenSet: &fakeSeenSet{}, Registry: &fakeRegistry{}, PublicURL: publicURL,
				Issuer: front.ExternalIssuer{URL: c.url}, NoBuiltinIssuer: c.noBuiltin,
			})
			if (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "secret")) {
				t.Errorf("%v, want one that says %q", err, c.says)
			}
		})
	}
}

// The reference sends those who try it to the issuer, once it is known where that
// gives tokens, if they may be sent there.
func TestIssuer_Reference(t *testing.T) {
	t.Parallel()
	key := newKey(t, "1", jwt.SigningMethodES256)
	get := func(f *testFront, path string) *answer {
		a := newAnswer()
		f.ServeHTTP(a, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return a
	}
	issuer := newIssuer(t, "https://login.example", key)
	f := withIssuer(t, issuer.url, issuer, func(o *front.Options) { o.NoBuiltinIssuer = true })
	waitFor(t, func() bool {
		return bytes.Contains(get(f, "/openapi.yaml").Bytes(), []byte(`tokenUrl: "https://login.example/oauth/token"`))
	})
	if policy := get(f, "/docs").header.Get("Content-Security-Policy"); !strings.Contains(policy, "connect-src 'self' https://login.example;") {
		t.Errorf("the policy is %s", policy)
	}
	plain := serveKeys(t, "https://plain.example", map[string]any{"keys": []any{}})
	f = withIssuer(t, "https://plain.example", inMemory{plain}, nil)
	waitFor(t, func() bool { return f.logs.FilterMessage("the keys of the external issuer are new").Len() > 0 })
	if policy := get(f, "/docs").header.Get("Content-Security-Policy"); !strings.Contains(policy, "connect-src 'self';") {
		t.Errorf("the policy is %s", policy)
	}
}
