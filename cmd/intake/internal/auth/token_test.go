package auth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/auth/authtest"
	"intake/sink"
)

// ask asks for a token with a form as name, value, …; user is the header's, if any.
func (f *testAuth) ask(t testing.TB, user *url.Userinfo, form ...string) (*answer, map[string]any) {
	t.Helper()
	values := url.Values{}
	for i := 0; i < len(form); i += 2 {
		values.Add(form[i], form[i+1])
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url+"/oauth/token",
		strings.NewReader(values.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if user != nil {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
	}
	a := f.do(t, request)
	var said map[string]any
	if err := json.Unmarshal(a.Bytes(), &said); err != nil {
		t.Fatalf("answered %d %s", a.status, a.Bytes())
	}
	return a, said
}

func TestToken(t *testing.T) {
	t.Parallel()
	f := startAuth(t)
	f.registry.Add("other")
	gone := f.registry.Add("gone")
	f.registry.Change("gone", func(p *sink.PartnerRecord) { p.Disabled = true })
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	header := url.UserPassword("acme", f.secret)
	grant := []string{"grant_type", "client_credentials"}
	body := append(grant, "client_id", "acme", "client_secret", f.secret)
	for _, c := range []struct {
		name   string
		user   *url.Userinfo
		form   []string
		status int
		error  string
		scope  string
	}{
		{"in the header", header, grant, 200, "", "clients:write clients:read"},
		{"in the header, form-encoded", url.UserPassword("%61cme", strings.ReplaceAll(f.secret, "-", "%2d")), grant,
			200, "", "clients:write clients:read"},
		{"in the header, the id in the body too", header, append(grant, "client_id", "acme"), 200, "",
			"clients:write clients:read"},
		{"in the body", nil, body, 200, "", "clients:write clients:read"},
		{"one scope", header, append(grant, "scope", "clients:read"), 200, "", "clients:read"},
		{"both scopes, and twice", header, append(grant, "scope", "clients:read clients:write clients:read"), 200, "",
			"clients:read clients:write"},
		{"an empty scope", header, append(grant, "scope", ""), 200, "", "clients:write clients:read"},
		{"unknown parameters", header, append(grant, "resource", "x"), 200, "", "clients:write clients:read"},
		{"another scope", header, append(grant, "scope", "clients:write admin"), 400, "invalid_scope", ""},
		{"no grant type", header, nil, 400, "invalid_request", ""},
		{"another grant type", header, []string{"grant_type", "password"}, 400, "unsupported_grant_type", ""},
		{"the grant type twice", header, append(grant, grant...), 400, "invalid_request", ""},
		{"in the header and in the body", header, body, 400, "invalid_request", ""},
		{"another id in the body", header, append(grant, "client_id", "other"), 400, "invalid_request", ""},
		{"bad escapes", url.UserPassword("acme", "%zz"), grant, 400, "invalid_request", ""},
		{"no client", nil, grant, 401, "invalid_client", ""},
		{"unknown client", url.UserPassword("nobody", f.secret), grant, 401, "invalid_client", ""},
		{"wrong secret", url.UserPassword("acme", f.secret+"x"), grant, 401, "invalid_client", ""},
		{"wrong secret in the body", nil, append(grant, "client_id", "acme", "client_secret", "x"), 401,
			"invalid_client", ""},
		{"no secret", url.UserPassword("acme", ""), grant, 401, "invalid_client", ""},
		{"another's secret", url.UserPassword("other", f.secret), grant, 401, "invalid_client", ""},
		{"disabled", url.UserPassword("gone", gone), grant, 401, "invalid_client", ""},
		{"too long", header, append(grant, "x", strings.Repeat("x", 9<<10)), 400, "invalid_request", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a, said := f.ask(t, c.user, slices.Clone(c.form)...)
			if a.status != c.status || a.header.Get("Cache-Control") != "no-store" ||
				a.header.Get("Content-Type") != "application/json" {
				t.Fatalf("answered %d %v: %v", a.status, a.header, said)
			}
			challenge := ""
			if c.status == 401 && c.user != nil { // RFC 6749 §5.2
				challenge = `Basic realm="intake"`
			}
			if got := a.header.Get("WWW-Authenticate"); got != challenge {
				t.Errorf("WWW-Authenticate is %q, want %q", got, challenge)
			}
			if c.status != 200 {
				if said["error"] != c.error || said["access_token"] != nil {
					t.Errorf("answered %v, want %s", said, c.error)
				}
				return
			}
			if said["token_type"] != "Bearer" || said["expires_in"] != 3600.0 || said["scope"] != c.scope {
				t.Errorf("answered %v", said)
			}
			if a := f.do(t, f.request(t, said["access_token"].(string))); strings.Contains(c.scope,
				"write") != (a.status == 200) {
				t.Errorf("the token gets %d", a.status)
			}
		})
	}
	t.Run("not a form", func(t *testing.T) {
		request, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url+"/oauth/token",
			strings.NewReader(`{"grant_type":"client_credentials"}`))
		request.Header.Set("Content-Type", "application/json")
		request.SetBasicAuth("acme", f.secret)
		if a := f.do(t, request); a.status != 400 || !strings.Contains(a.String(), "invalid_request") {
			t.Errorf("answered %d %s", a.status, a.Bytes())
		}
	})
	t.Run("in the query", func(t *testing.T) {
		request, _ := http.NewRequestWithContext(t.Context(), http.MethodPost,
			f.url+"/oauth/token?grant_type=client_credentials&client_id=acme&client_secret="+f.secret, nil)
		if a := f.do(t, request); a.status != 401 {
			t.Errorf("answered %d %s", a.status, a.Bytes())
		}
	})
}

// The way that other programs get tokens works, either way.
func TestToken_ClientCredentials(t *testing.T) {
	t.Parallel()
	f := startAuth(t)
	for _, style := range []oauth2.AuthStyle{oauth2.AuthStyleAutoDetect, oauth2.AuthStyleInHeader,
		oauth2.AuthStyleInParams} {
		config := clientcredentials.Config{ClientID: "acme", ClientSecret: f.secret, TokenURL: f.url + "/oauth/token",
			Scopes: []string{"clients:write"}, AuthStyle: style}
		client := config.Client(context.WithValue(t.Context(), oauth2.HTTPClient, f.client))
		response, err := client.Post(f.url+"/api/v1/clients", "application/json", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("style %d: answered %s", style, response.Status)
		}
	}
}

// A token is as RFC 9068 has it, and can be verified with what the metadata
// (RFC 8414) lead to.
func TestToken_Verified(t *testing.T) {
	t.Parallel()
	f := startAuth(t)
	get := func(path string) (document map[string]any) {
		t.Helper()
		response, err := f.client.Get(f.url + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil || json.Unmarshal(text, &document) != nil || response.StatusCode != 200 ||
			response.Header.Get("Content-Type") != "application/json" {
			t.Fatalf("%s: %s %s", path, response.Status, text)
		}
		return document
	}
	metadata := get("/.well-known/oauth-authorization-server")
	want := map[string]any{
		"issuer": authtest.PublicURL, "token_endpoint": authtest.PublicURL + "/oauth/token",
		"jwks_uri":         authtest.PublicURL + "/.well-known/jwks.json",
		"scopes_supported": []any{"clients:write", "clients:read"}, "response_types_supported": []any{},
		"grant_types_supported":                 []any{"client_credentials"},
		"token_endpoint_auth_methods_supported": []any{"client_secret_basic", "client_secret_post"},
	}
	if diff := cmp.Diff(want, metadata); diff != "" {
		t.Error(diff)
	}
	keys := get(strings.TrimPrefix(metadata["jwks_uri"].(string), authtest.PublicURL))["keys"].([]any)
	if len(keys) != 1 {
		t.Fatalf("keys: %v", keys)
	}
	jwk := keys[0].(map[string]any)
	if jwk["d"] != nil {
		t.Fatal("the private key is shown")
	}
	point := []byte{4} // an uncompressed point
	for _, name := range []string{"x", "y"} {
		b, err := base64.RawURLEncoding.DecodeString(jwk[name].(string))
		if err != nil || len(b) != 32 {
			t.Fatalf("%s: %v %v", name, jwk[name], err)
		}
		point = append(point, b...)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now().Truncate(time.Second)
	token, err := jwt.Parse(f.token(t, "clients:write"), func(*jwt.Token) (any, error) { return key, nil })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"typ": "at+jwt", "alg": "ES256", "kid": jwk["kid"]}, token.Header); diff != "" {
		t.Error(diff)
	}
	claims := token.Claims.(jwt.MapClaims)
	issued, _ := claims.GetIssuedAt()
	expires, _ := claims.GetExpirationTime()
	if issued.Before(before) || expires.Sub(issued.Time) != time.Hour || claims["jti"] == "" {
		t.Errorf("claims: %v", claims)
	}
	for name, want := range map[string]any{"iss": authtest.PublicURL, "aud": []any{authtest.PublicURL}, "sub": "acme",
		"client_id": "acme", "scope": "clients:write"} {
		if diff := cmp.Diff(want, claims[name]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Only tokens that a front has issued, for itself, for now, get in.
func TestToken_Refused(t *testing.T) {
	t.Parallel()
	f := startAuth(t)
	key := f.registry.Keys()[0].Private
	another, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	issued, _, err := jwt.NewParser().ParseUnverified(f.token(t), jwt.MapClaims{})
	if err != nil {
		t.Fatal(err)
	}
	type changes = map[string]any // nil: left out
	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	for _, c := range []struct {
		name           string
		header, claims changes
		method         jwt.SigningMethod
		key            any
		status         int
	}{
		{"as issued", nil, nil, jwt.SigningMethodES256, key, 200},
		{"type in full", changes{"typ": "application/AT+JWT"}, nil, jwt.SigningMethodES256, key, 200},
		{"a clock ahead", nil, changes{"iat": in(30 * time.Second)}, jwt.SigningMethodES256, key, 200},
		{"expired within the leeway", nil, changes{"exp": in(-30 * time.Second)}, jwt.SigningMethodES256, key, 200},
		{"no algorithm", nil, nil, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, 401},
		{"HS256 with the public key", nil, nil, jwt.SigningMethodHS256, public, 401},
		{"another key", nil, nil, jwt.SigningMethodES256, another, 401},
		{"another key's id", changes{"kid": "x"}, nil, jwt.SigningMethodES256, key, 401},
		{"no key id", changes{"kid": nil}, nil, jwt.SigningMethodES256, key, 401},
		{"another type", changes{"typ": "JWT"}, nil, jwt.SigningMethodES256, key, 401},
		{"no type", changes{"typ": nil}, nil, jwt.SigningMethodES256, key, 401},
		{"expired", nil, changes{"exp": in(-2 * time.Minute)}, jwt.SigningMethodES256, key, 401},
		{"never expires", nil, changes{"exp": nil}, jwt.SigningMethodES256, key, 401},
		{"not yet", nil, changes{"nbf": in(2 * time.Minute)}, jwt.SigningMethodES256, key, 401},
		{"from the future", nil, changes{"iat": in(2 * time.Minute)}, jwt.SigningMethodES256, key, 401},
		{"another audience", nil, changes{"aud": "https://other.example"}, jwt.SigningMethodES256, key, 401},
		{"no audience", nil, changes{"aud": nil}, jwt.SigningMethodES256, key, 401},
		{"another issuer", nil, changes{"iss": "https://other.example"}, jwt.SigningMethodES256, key, 401},
		{"no issuer", nil, changes{"iss": nil}, jwt.SigningMethodES256, key, 401},
		{"another partner", nil, changes{"sub": "other"}, jwt.SigningMethodES256, key, 401},
		{"no partner", nil, changes{"sub": nil}, jwt.SigningMethodES256, key, 401},
		{"a former partner of the name", nil, changes{"intake_partner": 77}, jwt.SigningMethodES256, key, 401},
		{"no scope", nil, changes{"scope": nil}, jwt.SigningMethodES256, key, 403},
		{"a scope that begins like it", nil, changes{"scope": "clients:write2"}, jwt.SigningMethodES256, key, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			token := jwt.New(c.method)
			changed := func(to, from, by map[string]any) {
				for name, value := range from {
					to[name] = value
				}
				for name, value := range by {
					if to[name] = value; value == nil {
						delete(to, name)
					}
				}
			}
			changed(token.Header, issued.Header, c.header)
			token.Header["alg"] = c.method.Alg()
			claims := jwt.MapClaims{}
			changed(claims, issued.Claims.(jwt.MapClaims), c.claims)
			token.Claims = claims
			signed, err := token.SignedString(c.key)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // what is refused must not be in the cache then
				a := f.do(t, f.request(t, signed))
				if a.status != c.status {
					t.Errorf("answered %d %s, want %d", a.status, a.Bytes(), c.status)
				}
			}
		})
	}
}

// Each byte of a token matters.
func TestToken_Tampered(t *testing.T) {
	t.Parallel()
	f := newAuth(t, nil)
	token := f.token(t)
	for i := range token {
		for _, tampered := range []string{token[:i], token[:i] + "A" + token[i+1:], token[:i] + "B" + token[i:]} {
			if tampered == token {
				continue
			}
			a := newAnswer()
			f.ServeHTTP(a, f.request(t, tampered))
			if a.status != http.StatusUnauthorized {
				t.Fatalf("answered %d to a token changed at %d", a.status, i)
			}
		}
	}
}

// A partner's new secret takes the place of the old one; guesses cost the data
// store nothing.
func TestToken_Rotated(t *testing.T) {
	t.Parallel()
	f := startAuth(t)
	old, held := f.secret, f.token(t)
	fresh, hash := auth.NewSecret()
	f.registry.Change("acme", func(p *sink.PartnerRecord) { p.SecretHash = hash })
	reads := f.registry.Reads()
	grant := []string{"grant_type", "client_credentials"}
	for range 5 {
		if a, _ := f.ask(t, url.UserPassword("acme", "guess"), grant...); a.status != http.StatusUnauthorized {
			t.Fatalf("answered %d to a guess", a.status)
		}
	}
	if f.registry.Reads() != reads {
		t.Errorf("the partners were read %d times for guesses", f.registry.Reads()-reads)
	}
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for secret, want := range map[string]int{old: 401, fresh: 200} {
		if a, _ := f.ask(t, url.UserPassword("acme", secret), grant...); a.status != want {
			t.Errorf("answered %d, want %d", a.status, want)
		}
	}
	if a := f.do(t, f.request(t, held)); a.status != http.StatusOK {
		t.Errorf("answered %d to a token from before", a.status)
	}
}

// An old secret gets tokens for as long as it is known.
func TestToken_OldSecrets(t *testing.T) {
	t.Parallel()
	f := startAuth(t)
	older, olderHash := auth.NewSecret()
	old := f.secret
	fresh, freshHash := auth.NewSecret()
	grant := []string{"grant_type", "client_credentials"}
	for _, c := range []struct {
		hashes [][32]byte // before the fresh one
		want   map[string]int
	}{
		{[][32]byte{olderHash, sha256.Sum256([]byte(old))}, map[string]int{older: 200, old: 200, fresh: 200,
			fresh + "x": 401, "": 401}},
		{[][32]byte{sha256.Sum256([]byte(old))}, map[string]int{older: 401, old: 200, fresh: 200}},
		{nil, map[string]int{older: 401, old: 401, fresh: 200}},
	} {
		f.registry.Change("acme", func(p *sink.PartnerRecord) { p.SecretHash, p.OldSecretHashes = freshHash, c.hashes })
		if err := f.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		for secret, want := range c.want {
			if a, _ := f.ask(t, url.UserPassword("acme", secret), grant...); a.status != want {
				t.Errorf("with %d old secrets: answered %d, want %d", len(c.hashes), a.status, want)
			}
		}
	}
	f.registry.Change("acme", func(p *sink.PartnerRecord) {
		p.Disabled, p.OldSecretHashes = true,
			[][32]byte{olderHash}
	})
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, _ := f.ask(t, url.UserPassword("acme", older), grant...); a.status != http.StatusUnauthorized {
		t.Errorf("answered %d to a disabled partner's old secret", a.status)
	}
}

// A new key is published before it signs; the one before it is valid until its last
// token has expired, and a dropped one no more, also where a token is known already.
func TestToken_KeyRotated(t *testing.T) {
	t.Parallel()
	f := startAuth(t)
	const ahead = 3 * time.Hour
	f.registry.SetClock(ahead)
	first := f.registry.Keys()[0]
	second := authtest.NewSigningKey(time.Now().Add(ahead + time.Hour))
	held := f.token(t)
	for _, c := range []struct {
		name      string
		change    func(keys []sink.SigningKey, now time.Time) []sink.SigningKey
		published []string
		signer    string
		held      int
	}{
		{"one key", func(keys []sink.SigningKey, _ time.Time) []sink.SigningKey { return keys }, []string{first.ID},
			first.ID, 200},
		{"the second waits", func(keys []sink.SigningKey, _ time.Time) []sink.SigningKey {
			keys[0].SignsUntil = second.SignsFrom
			return append(keys, second)
		}, []string{first.ID, second.ID}, first.ID, 200},
		{"the second signs", func(keys []sink.SigningKey, now time.Time) []sink.SigningKey {
			keys[0].SignsUntil, keys[1].SignsFrom = now.Add(-sink.KeyKept+time.Minute),
				now.Add(-sink.KeyKept+time.Minute)
			return keys
		}, []string{first.ID, second.ID}, second.ID, 200},
		{"the first is over", func(keys []sink.SigningKey, now time.Time) []sink.SigningKey {
			keys[0].SignsUntil, keys[1].SignsFrom = now.Add(-sink.KeyKept-time.Minute),
				now.Add(-sink.KeyKept-time.Minute)
			return keys
		}, []string{second.ID}, second.ID, 401},
		{"the first back", func(keys []sink.SigningKey, now time.Time) []sink.SigningKey {
			keys[0].SignsUntil = now
			return keys
		}, []string{first.ID, second.ID}, second.ID, 200},
		{"the first is dropped", func(keys []sink.SigningKey, _ time.Time) []sink.SigningKey { return keys[1:] },
			[]string{second.ID}, second.ID, 401},
	} {
		f.registry.ChangeKeys(c.change)
		if err := f.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if published := f.publishedKeys(t); !slices.Equal(published, c.published) {
			t.Errorf("%s: published are %v, want %v", c.name, published, c.published)
		}
		fresh := f.token(t)
		if signer := keyOf(t, fresh); signer != c.signer {
			t.Errorf("%s: %s signs, want %s", c.name, signer, c.signer)
		}
		for token, want := range map[string]int{held: c.held, fresh: 200} {
			if a := f.do(t, f.request(t, token)); a.status != want {
				t.Errorf("%s: a token is answered %d, want %d", c.name, a.status, want)
			}
		}
	}
}

// A front that can't read the keys when a new one begins to sign signs with it all
// the same; and refuses to issue tokens while none signs.
func TestToken_KeyRotatedUnread(t *testing.T) {
	t.Parallel()
	f := startAuth(t)
	var second sink.SigningKey
	f.registry.ChangeKeys(func(keys []sink.SigningKey, now time.Time) []sink.SigningKey {
		second = authtest.NewSigningKey(now.Add(time.Second))
		keys[0].SignsUntil = now
		return append(keys, second)
	})
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.registry.SetAway(true)
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(10 * time.Millisecond) {
		a, said := f.ask(t, url.UserPassword("acme", f.secret), "grant_type", "client_credentials")
		if a.status == http.StatusOK {
			if signer := keyOf(t, said["access_token"].(string)); signer != second.ID {
				t.Errorf("%s signs, want %s", signer, second.ID)
			}
			return
		}
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
			t.Fatalf("answered %d: %v", a.status, said)
		}
		if time.Now().After(deadline) {
			t.Fatal("the second key does not sign")
		}
	}
}

func keyOf(t *testing.T, token string) string {
	t.Helper()
	parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Header["kid"].(string)
}

func (f *testAuth) publishedKeys(t *testing.T) (ids []string) {
	t.Helper()
	response, err := f.client.Get(f.url + "/.well-known/jwks.json")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var set struct {
		Keys []struct {
			ID string `json:"kid"`
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&set); err != nil {
		t.Fatal(err)
	}
	for _, key := range set.Keys {
		ids = append(ids, key.ID)
	}
	return ids
}

// A disabled partner is refused at once, with the tokens it holds; so is one that
// is gone.
func TestToken_Disabled(t *testing.T) {
	t.Parallel()
	f := startAuth(t)
	token := f.token(t)
	post := func(want int) {
		t.Helper()
		if err := f.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		a := f.do(t, f.request(t, token))
		if a.status != want {
			t.Errorf("answered %d, want %d", a.status, want)
		}
		if want == http.StatusUnauthorized {
			a.checkProblem(t, want, "partner_refused: ")
		}
	}
	post(http.StatusOK)
	f.registry.Change("acme", func(p *sink.PartnerRecord) { p.Disabled = true })
	post(http.StatusUnauthorized)
	f.registry.Change("acme", func(p *sink.PartnerRecord) { p.Disabled = false })
	post(http.StatusOK)
	f.registry.Change("acme", func(p *sink.PartnerRecord) { p.Name = "renamed" })
	post(http.StatusUnauthorized)
}

// Before the partners are known, nobody gets in and no token is issued, and each refusal
// says when to try again.
func TestAuthenticator_BeforePartnersAreKnown(t *testing.T) {
	t.Parallel()
	registry := &authtest.Registry{}
	registry.SetAway(true)
	a, err := auth.New(auth.Options{Registry: registry, PublicURL: authtest.PublicURL})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Reload(t.Context()); err == nil || a.Ready(t.Context()) == nil {
		t.Fatal("it thinks that it knows the partners")
	}
	for _, target := range []string{"POST /api/v1/clients", "POST /oauth/token", "GET /.well-known/jwks.json"} {
		method, path, _ := strings.Cut(target, " ")
		w := newAnswer()
		handlerOf(a).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader("x")))
		w.checkProblem(t, http.StatusServiceUnavailable, "starting: ")
	}
	registry.SetAway(false)
	if err := a.Reload(t.Context()); err != nil || a.Ready(t.Context()) != nil {
		t.Errorf("it does not know them yet: %v", err)
	}
}

// Two fronts sign with the same key: a token of one is good at the other.
func TestToken_SharedKey(t *testing.T) {
	t.Parallel()
	f := newAuth(t, nil)
	g := newAuth(t, func(o *auth.Options) { o.Registry = f.registry })
	g.wantPost(t, f.token(t), http.StatusOK)
}

func TestNewSecret(t *testing.T) {
	t.Parallel()
	one, hash := auth.NewSecret()
	other, _ := auth.NewSecret()
	random, err := base64.RawURLEncoding.DecodeString(one)
	if err != nil || len(random) != 32 || one == other || hash != sha256.Sum256([]byte(one)) {
		t.Errorf("a secret of %d bytes (%v)", len(random), err)
	}
}

func TestNew_Missing(t *testing.T) {
	t.Parallel()
	if _, err := auth.New(auth.Options{}); err == nil {
		t.Error("an authenticator of nothing was made")
	}
}
