package auth_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/golang-jwt/jwt/v5"

	"intake/cmd/intake/internal/auth/authtest"
)

// serveKeys is an issuer without a path whose set of keys is a value.
func serveKeys(t testing.TB, issuer string, set any) *http.ServeMux {
	t.Helper()
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", say(metadata(issuer, issuer+"/jwks")))
	mux.HandleFunc("/jwks", say(string(text)))
	return mux
}

func metadata(issuer, keys string) string {
	return fmt.Sprintf(`{"issuer": %q, "jwks_uri": %q, "token_endpoint": "x"}`, issuer, keys)
}

func say(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}

// The keys are found where the issuer says that they are, and nowhere else; what
// it says is not taken on trust.
func TestIssuer_Discovery(t *testing.T) {
	t.Parallel()
	key := authtest.NewKey(t, "1", jwt.SigningMethodES256)
	provider := authtest.NewIssuer(t, "https://issuer.example", key)
	set := func() http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path = "/keys"
			provider.ServeHTTP(w, r)
		}
	}
	redirect := func(to string) http.HandlerFunc { return http.RedirectHandler(to, http.StatusFound).ServeHTTP }
	const (
		origin = "https://issuer.example"
		openid = "/.well-known/openid-configuration"
		oauth  = "/.well-known/oauth-authorization-server"
		local  = "http://127.0.0.1:99"
	)
	type routes = map[string]http.HandlerFunc
	for _, c := range []struct {
		name, issuer string
		routes       routes // by host and path
		says         string // in the log, if the keys are not found
	}{
		{"by OpenID Connect", origin, routes{"issuer.example" + openid: say(metadata(origin, origin+"/k")),
			"issuer.example/k": set()}, ""},
		{"by OpenID Connect, with a path", origin + "/a/b/",
			routes{"issuer.example/a/b" + openid: say(metadata(origin+"/a/b/", origin+"/k")),
				"issuer.example/k": set()}, ""},
		{"by RFC 8414", origin, routes{"issuer.example" + oauth: say(metadata(origin, origin+"/k")),
			"issuer.example/k": set()}, ""},
		{"by RFC 8414, with a path", origin + "/a/b",
			routes{"issuer.example" + oauth + "/a/b": say(metadata(origin+"/a/b", origin+"/k")),
				"issuer.example/k": set()}, ""},
		{"by RFC 8414, where OpenID Connect is broken", origin, routes{"issuer.example" + openid: say("<html>"),
			"issuer.example" + oauth: say(metadata(origin, origin+"/k")), "issuer.example/k": set()}, ""},
		{"at another host", origin, routes{"issuer.example" + openid: say(metadata(origin, "https://keys.example/k")),
			"keys.example/k": set()}, ""},
		{"after a redirect", origin, routes{"issuer.example" + openid: say(metadata(origin, origin+"/j")),
			"issuer.example/j": redirect("/k"), "issuer.example/k": set()}, ""},
		{"on this machine", local, routes{"127.0.0.1" + openid: say(metadata(local, local+"/k")), "127.0.0.1/k": set()},
			""},

		{"nowhere", origin, nil, "404"},
		{"another issuer's", origin,
			routes{"issuer.example" + openid: say(metadata("https://evil.example", origin+"/k")),
				"issuer.example/k": set()}, "evil.example"},
		{"the issuer's but for a slash", origin,
			routes{"issuer.example" + openid: say(metadata(origin+"/", origin+"/k")), "issuer.example/k": set()},
			"is about the issuer"},
		{"no address", origin, routes{"issuer.example" + openid: say(`{"issuer": "https://issuer.example"}`)},
			"not https"},
		{"not https", origin, routes{"issuer.example" + openid: say(metadata(origin, "http://issuer.example/k")),
			"issuer.example/k": set()}, "not https"},
		{"a file", origin, routes{"issuer.example" + openid: say(metadata(origin, "file:///etc/passwd"))}, "not https"},
		{"https to http on this machine", origin, routes{"issuer.example" + openid: say(metadata(origin, local+"/k")),
			"127.0.0.1/k": set()}, "not https"},
		{"a redirect to http", origin, routes{"issuer.example" + openid: say(metadata(origin, origin+"/j")),
			"issuer.example/j": redirect("http://issuer.example/k"), "issuer.example/k": set()}, "not https"},
		{"redirects for ever", origin, routes{"issuer.example" + openid: redirect(openid)}, "too many redirects"},
		{"metadata too large", origin,
			routes{"issuer.example" + openid: say(metadata(origin, origin+"/k") + strings.Repeat(" ", 1<<20)),
				"issuer.example/k": set()}, "larger than"},
		{"keys too large", origin, routes{"issuer.example" + openid: say(metadata(origin, origin+"/k")),
			"issuer.example/k": say(strings.Repeat(" ", 1<<20) + `{"keys": []}`)}, "larger than"},
		{"not JSON", origin, routes{"issuer.example" + openid: say(metadata(origin, origin+"/k")),
			"issuer.example/k": say("<html>")}, "invalid character"},
		{"not a set", origin, routes{"issuer.example" + openid: say(metadata(origin, origin+"/k")),
			"issuer.example/k": say(`{"error": "try later"}`)}, "not a key set"},
		{"a status", origin, routes{"issuer.example" + openid: say(metadata(origin, origin+"/k")),
			"issuer.example/k": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }},
			"204"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mux := http.NewServeMux()
				for route, handler := range c.routes {
					mux.HandleFunc(route, handler)
				}
				f := withIssuer(t, c.issuer, authtest.InMemory{Handler: mux}, nil)
				claims := provider.Claims()
				claims["iss"] = c.issuer
				a := f.post(t, key.Sign(t, claims))
				if c.says == "" {
					if a.status != http.StatusOK {
						t.Errorf("answered %d %s: %v", a.status, a.Bytes(), f.logs.All())
					}
					return
				}
				a.checkProblem(t, http.StatusServiceUnavailable, "issuer_unavailable: the keys")
				logged := f.logs.FilterMessageSnippet("its tokens get 503").All()
				if len(logged) != 1 || !strings.Contains(fmt.Sprint(logged[0].ContextMap()["error"]), c.says) {
					t.Errorf("logged %v, want an error that says %q", logged, c.says)
				}
			})
		})
	}
}
