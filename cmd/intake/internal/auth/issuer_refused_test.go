package auth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"intake/cmd/intake/internal/auth/authtest"
)

// Every algorithm of the list gets in, with a key of its kind.
func TestIssuer_Algorithms(t *testing.T) {
	t.Parallel()
	methods := []jwt.SigningMethod{jwt.SigningMethodES256, jwt.SigningMethodES384, jwt.SigningMethodRS256,
		jwt.SigningMethodPS256, jwt.SigningMethodEdDSA}
	keys := make([]authtest.IssuerKey, len(methods))
	for i, method := range methods {
		keys[i] = authtest.NewKey(t, method.Alg(), method)
	}
	issuer := authtest.NewIssuer(t, "https://issuer.example", keys...)
	f := withIssuer(t, issuer.URL, issuer, nil)
	for _, key := range keys {
		f.wantPost(t, key.Sign(t, issuer.Claims()), http.StatusOK)
		for _, method := range methods {
			if _, err := method.Sign("x", key.Private); err != nil || method == key.Method || method.Alg() == "ES384" {
				continue // the key is of another type
			}
			t.Run(method.Alg()+" with the key for "+key.KID, func(t *testing.T) {
				f.wantPost(t, authtest.SignWith(t, method, key.Private, issuer.Claims(), map[string]any{"kid": key.KID,
					"typ": "at+jwt"}), http.StatusUnauthorized)
			})
		}
	}
}

// Only tokens that the issuer has issued, for the front, for now, get in (RFC 8725).
func TestIssuer_Refused(t *testing.T) {
	t.Parallel()
	key := authtest.NewKey(t, "rsa", jwt.SigningMethodRS256)
	elliptic256 := authtest.NewKey(t, "ec", jwt.SigningMethodES256)
	issuer := authtest.NewIssuer(t, "https://issuer.example", key, elliptic256)
	another := authtest.NewKey(t, "rsa", jwt.SigningMethodRS256)
	f := withIssuer(t, issuer.URL, issuer, nil)
	public := key.Private.Public().(*rsa.PublicKey)
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	inPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	inJSON, err := json.Marshal(jose.JSONWebKey{Key: public, KeyID: "rsa"})
	if err != nil {
		t.Fatal(err)
	}
	embedded := jose.JSONWebKey{Key: another.Private.Public(), KeyID: "rsa"}
	type changes = map[string]any // nil: left out
	// in is a time of a claim, from when the token is made.
	type in = time.Duration
	rs256 := jwt.SigningMethodRS256
	for _, c := range []struct {
		name           string
		header, claims changes
		method         jwt.SigningMethod
		key            any
		status         int
	}{
		{"as issued", nil, nil, rs256, key.Private, 200},
		{"type in full", changes{"typ": "application/at+JWT"}, nil, rs256, key.Private, 200},
		{"type JWT", changes{"typ": "JWT"}, nil, rs256, key.Private, 200},
		{"no key id, and one key of the kind", changes{"kid": nil}, nil, rs256, key.Private, 200},
		{"several audiences", nil, changes{"aud": []string{"x", authtest.PublicURL}}, rs256, key.Private, 200},
		{"a clock ahead", nil, changes{"iat": in(30 * time.Second), "nbf": in(30 * time.Second)}, rs256, key.Private,
			200},
		{"expired within the leeway", nil, changes{"exp": in(-30 * time.Second)}, rs256, key.Private, 200},
		{"no time of issue", nil, changes{"iat": nil}, rs256, key.Private, 200},

		{"no algorithm", nil, nil, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, 401},
		{"HS256 with the public key, DER", nil, nil, jwt.SigningMethodHS256, der, 401},
		{"HS256 with the public key, PEM", nil, nil, jwt.SigningMethodHS256, []byte(inPEM), 401},
		{"HS256 with the public key, JWK", nil, nil, jwt.SigningMethodHS256, inJSON, 401},
		{"HS256 with nothing", nil, nil, jwt.SigningMethodHS256, []byte{}, 401},
		{"an algorithm that the key isn't for", nil, nil, jwt.SigningMethodPS256, key.Private, 401},
		{"an algorithm that isn't in the list", nil, nil, jwt.SigningMethodRS512, key.Private, 401},
		{"an algorithm in other letters", changes{"alg": "rs256"}, nil, rs256, key.Private, 401},
		{"another key's type", changes{"kid": "ec"}, nil, rs256, key.Private, 401},
		{"another key", nil, nil, rs256, another.Private, 401},
		{"another key, embedded", changes{"jwk": embedded}, nil, rs256, another.Private, 401},
		{"another key, embedded, no id", changes{"jwk": embedded, "kid": nil}, nil, rs256, another.Private, 401},
		{"another key, from elsewhere", changes{"jku": "https://evil.example/keys", "x5u": "https://evil.example/cert"},
			nil, rs256, another.Private, 401},
		{"another key, with a certificate", changes{"x5c": []string{base64.StdEncoding.EncodeToString(der)}}, nil,
			rs256, another.Private, 401},
		{"a key id that is a path", changes{"kid": "../../../../dev/null"}, nil, rs256, key.Private, 401},
		{"a key id that goes on", changes{"kid": "rsa\x00"}, nil, rs256, key.Private, 401},
		{"a key id that is a query", changes{"kid": "x' or '1'='1"}, nil, rs256, key.Private, 401},
		{"a key id that is an address", changes{"kid": "https://evil.example/keys"}, nil, rs256, key.Private, 401},
		{"an empty key id", changes{"kid": ""}, nil, rs256, key.Private, 401},
		{"a key id that is no string", changes{"kid": []string{"rsa"}}, nil, rs256, key.Private, 401},
		{"extensions", changes{"crit": []string{"exp"}}, nil, rs256, key.Private, 401},
		{"an ID token's type", changes{"typ": "id+jwt"}, nil, rs256, key.Private, 401},
		{"a logout token's type", changes{"typ": "logout+jwt"}, nil, rs256, key.Private, 401},
		{"no type", changes{"typ": nil}, nil, rs256, key.Private, 401},
		{"a type that is no string", changes{"typ": 1}, nil, rs256, key.Private, 401},

		{"another issuer", nil, changes{"iss": "https://evil.example"}, rs256, key.Private, 401},
		{"the issuer and a slash", nil, changes{"iss": "https://issuer.example/"}, rs256, key.Private, 401},
		{"the issuer in other letters", nil, changes{"iss": "https://Issuer.example"}, rs256, key.Private, 401},
		{"the issuer is the front", nil, changes{"iss": authtest.PublicURL}, rs256, key.Private, 401},
		{"several issuers", nil, changes{"iss": []string{"https://issuer.example"}}, rs256, key.Private, 401},
		{"no issuer", nil, changes{"iss": nil}, rs256, key.Private, 401},
		{"an ID token, whose audience is the client", nil, changes{"aud": "acme"}, rs256, key.Private, 401},
		{"another audience", nil, changes{"aud": []string{authtest.PublicURL + "/other", "x"}}, rs256, key.Private,
			401},
		{"no audience", nil, changes{"aud": nil}, rs256, key.Private, 401},
		{"an empty audience", nil, changes{"aud": []string{}}, rs256, key.Private, 401},
		{"expired", nil, changes{"exp": in(-61 * time.Second)}, rs256, key.Private, 401},
		{"never expires", nil, changes{"exp": nil}, rs256, key.Private, 401},
		{"expires at a text", nil, changes{"exp": "tomorrow"}, rs256, key.Private, 401},
		{"not yet", nil, changes{"nbf": in(10 * time.Minute)}, rs256, key.Private, 401},
		{"from the future", nil, changes{"iat": in(10 * time.Minute)}, rs256, key.Private, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims := issuer.Claims()
			for name, value := range c.claims {
				if after, ok := value.(in); ok {
					value = time.Now().Add(after).Unix()
				}
				if claims[name] = value; value == nil {
					delete(claims, name)
				}
			}
			header := changes{"kid": "rsa", "typ": "at+jwt"}
			for name, value := range c.header {
				header[name] = value
			}
			token := authtest.SignWith(t, c.method, c.key, claims, header)
			for range 2 { // what is refused must not be in the cache then
				f.wantPost(t, token, c.status)
			}
		})
	}
}

// Each byte of a token matters, also of one that is in the cache.
func TestIssuer_Tampered(t *testing.T) {
	t.Parallel()
	issuer := authtest.NewIssuer(t, "https://issuer.example", authtest.NewKey(t, "1", jwt.SigningMethodEdDSA))
	f := withIssuer(t, issuer.URL, issuer, nil)
	token := issuer.Token(t)
	f.wantPost(t, token, http.StatusOK)
	for i := range token {
		for _, tampered := range []string{token[:i], token[:i] + "A" + token[i+1:], token[:i] + "B" + token[i:]} {
			if tampered != token {
				f.wantPost(t, tampered, http.StatusUnauthorized)
			}
		}
	}
}

// What stands in the set of keys but no token may be signed with is left out, and
// doesn't spoil the rest.
func TestIssuer_KeysLeftOut(t *testing.T) {
	t.Parallel()
	good := authtest.NewKey(t, "good", jwt.SigningMethodES256)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte(strings.Repeat("x", 32))
	forEncryption, private, twice, unnamed := authtest.NewKey(t, "enc", jwt.SigningMethodRS256),
		authtest.NewKey(t, "private", jwt.SigningMethodES256), authtest.NewKey(t, "twice", jwt.SigningMethodEdDSA),
		authtest.NewKey(t, "", jwt.SigningMethodES384)
	var raw []json.RawMessage
	for _, jwk := range []jose.JSONWebKey{
		{KeyID: "weak", Key: &weak.PublicKey}, {KeyID: "secret", Key: secret}, {KeyID: "p521", Key: &p521.PublicKey},
		{KeyID: "enc", Key: forEncryption.Private.Public(), Use: "enc"}, {KeyID: "private", Key: private.Private},
		{KeyID: "twice", Key: twice.Private.Public()},
		{KeyID: "twice", Key: authtest.NewKey(t, "", jwt.SigningMethodEdDSA).Private.Public()},
		{Key: unnamed.Private.Public()},
		{KeyID: "good", Key: good.Private.Public()},
	} {
		text, err := json.Marshal(jwk)
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, text)
	}
	for _, text := range []string{`{}`, `null`, `1`, `{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}`,
		`{"kty": "XX", "kid": "good"}`, `{"kty": "EC", "crv": "secp256k1", "kid": "good"}`} {
		raw = append(raw, json.RawMessage(text))
	}
	issuer := authtest.NewIssuer(t, "https://issuer.example", good)
	f := withIssuer(t, issuer.URL, authtest.InMemory{Handler: serveKeys(t, issuer.URL, map[string]any{"keys": raw})},
		nil)
	f.wantPost(t, good.Sign(t, issuer.Claims()), http.StatusOK)
	f.wantPost(t, unnamed.Sign(t, issuer.Claims()), http.StatusOK)
	f.wantPost(t, authtest.SignWith(t, unnamed.Method, unnamed.Private, issuer.Claims(), map[string]any{"typ": "JWT"}),
		http.StatusOK)
	for id, token := range map[string]string{
		"weak": authtest.SignWith(t, jwt.SigningMethodRS256, weak, issuer.Claims(),
			map[string]any{"kid": "weak", "typ": "JWT"}),
		"p521": authtest.SignWith(t, jwt.SigningMethodES512, p521, issuer.Claims(),
			map[string]any{"kid": "p521", "typ": "JWT"}),
		"secret": authtest.SignWith(t, jwt.SigningMethodHS256, secret, issuer.Claims(),
			map[string]any{"kid": "secret", "typ": "JWT"}),
		"enc":                          forEncryption.Sign(t, issuer.Claims()),
		"private":                      private.Sign(t, issuer.Claims()),
		"twice":                        twice.Sign(t, issuer.Claims()),
		"a curve of another algorithm": signES384(t, good, issuer.Claims()),
	} {
		t.Run(id, func(t *testing.T) { f.wantPost(t, token, http.StatusUnauthorized) })
	}
}

// signES384 signs with a key of any curve, as no library would.
func signES384(t testing.TB, key authtest.IssuerKey, claims jwt.Claims) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodES384, claims)
	token.Header["kid"], token.Header["typ"] = key.KID, "at+jwt"
	text, err := token.SigningString()
	if err != nil {
		t.Fatal(err)
	}
	hash := sha512.Sum384([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key.Private.(*ecdsa.PrivateKey), hash[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := append(r.FillBytes(make([]byte, 48)), s.FillBytes(make([]byte, 48))...)
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}
