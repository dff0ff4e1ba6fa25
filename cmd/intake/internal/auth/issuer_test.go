package auth_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/auth/authtest"
	"intake/sink"
)

// Partners get in with tokens of another issuer, got the way that programs get
// them, and with those of the front.
func TestIssuer_ClientCredentials(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(nil)
	issuer := authtest.NewIssuer(t, "http://"+server.Listener.Addr().String(),
		authtest.NewKey(t, "1", jwt.SigningMethodES256))
	server.Config.Handler = issuer
	server.Start()
	t.Cleanup(server.Close)
	f := withIssuer(t, issuer.URL, nil, nil)
	f.registry.Add("gone")
	f.registry.Change("gone", func(p *sink.PartnerRecord) { p.Disabled = true })
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
			config := clientcredentials.Config{ClientID: c.client, ClientSecret: authtest.Secret,
				TokenURL: issuer.URL + "/oauth/token", Scopes: c.scopes, AuthStyle: c.style}
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
	issuer := authtest.NewIssuer(t, "https://issuer.example", authtest.NewKey(t, "1", jwt.SigningMethodES256))
	both := withIssuer(t, issuer.URL, issuer, nil)
	f := withIssuer(t, issuer.URL, issuer, func(o *auth.Options) {
		o.Registry, o.NoBuiltinIssuer = both.registry,
			true
	})
	f.wantPost(t, issuer.Token(t), http.StatusOK)
	f.wantPost(t, both.token(t), http.StatusUnauthorized)
	both.wantPost(t, both.token(t), http.StatusOK)
	alone := &authtest.Registry{}
	alone.Add("acme")
	f = withIssuer(t, issuer.URL, issuer, func(o *auth.Options) { o.Registry, o.NoBuiltinIssuer = alone, true })
	f.wantPost(t, issuer.Token(t), http.StatusOK)
	if alone.Keys() != nil {
		t.Error("the signing keys were read, which nothing is signed with")
	}
}

// Which partner a token is for, and what it may do, can stand in several claims.
func TestIssuer_Claims(t *testing.T) {
	t.Parallel()
	issuer := authtest.NewIssuer(t, "https://issuer.example/tenant/", authtest.NewKey(t, "1", jwt.SigningMethodES256))
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
			f := withIssuer(t, issuer.URL, issuer, func(o *auth.Options) { o.Issuer.PartnerClaim = c.partner })
			all := issuer.Claims()
			for name, value := range c.claims {
				if all[name] = value; value == nil {
					delete(all, name)
				}
			}
			token := issuer.Keys()[0].Sign(t, all)
			f.wantPost(t, token, c.status)
			f.wantPost(t, token, c.status)
		})
	}
	t.Run("another audience", func(t *testing.T) {
		t.Parallel()
		f := withIssuer(t, issuer.URL, issuer, func(o *auth.Options) { o.Issuer.Audience = "intake-api" })
		f.wantPost(t, issuer.Token(t), http.StatusUnauthorized)
		all := issuer.Claims()
		all["aud"] = []string{"x", "intake-api"}
		f.wantPost(t, issuer.Keys()[0].Sign(t, all), http.StatusOK)
	})
}

// A partner that is shut out stays out, whatever its issuer says.
func TestIssuer_Disabled(t *testing.T) {
	t.Parallel()
	issuer := authtest.NewIssuer(t, "https://issuer.example", authtest.NewKey(t, "1", jwt.SigningMethodES256))
	f := withIssuer(t, issuer.URL, issuer, nil)
	token := issuer.Token(t)
	f.wantPost(t, token, http.StatusOK)
	f.registry.Change("acme", func(p *sink.PartnerRecord) { p.Disabled = true })
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
		{"the front's address, the built-in issuer off", authtest.PublicURL, true, ""},
		{"http", "http://issuer.example", false, "https"},
		{"http to a name that begins like this machine's", "http://localhost.example", false, "https"},
		{"another scheme", "file://issuer.example/keys", false, "https"},
		{"no scheme", "issuer.example", false, "host"},
		{"a query", "https://issuer.example?x", false, "query"},
		{"an empty query", "https://issuer.example?", false, "query"},
		{"a fragment", "https://issuer.example#", false, "fragment"},
		{"a user", "https://me:secret@issuer.example", false, "user"},
		{"not a URL", "https://issuer example", false, "URL"},
		{"the front itself", authtest.PublicURL, false, "the front itself"},
		{"none at all", "", true, "requires --oauth-issuer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := auth.New(auth.Options{
				Registry: &authtest.Registry{}, PublicURL: authtest.PublicURL,
				Issuer: auth.ExternalIssuer{URL: c.url}, NoBuiltinIssuer: c.noBuiltin,
			})
			if (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) ||
				strings.Contains(err.Error(), "secret")) {
				t.Errorf("%v, want one that says %q", err, c.says)
			}
		})
	}
}
