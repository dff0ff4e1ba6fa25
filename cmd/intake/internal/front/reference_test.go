package front_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/pb33f/libopenapi"

	"intake/cmd/intake/internal/auth/authtest"
	"intake/cmd/intake/internal/reference"
	"intake/internal/local/localtest"
)

// The document has the routes of the front, and no other.
func TestRoutes(t *testing.T) {
	t.Parallel()
	document, err := libopenapi.NewDocument(reference.Document())
	if err != nil {
		t.Fatal(err)
	}
	model, err := document.BuildV3Model()
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string][]string)
	for path, item := range model.Model.Paths.PathItems.FromOldest() {
		for method := range item.GetOperations().FromOldest() {
			documented[path] = append(documented[path], strings.ToUpper(method))
		}
		slices.Sort(documented[path])
	}
	if diff := cmp.Diff(newFront(t, nil).Routes(), documented); diff != "" {
		t.Errorf("the front's routes (-) and the document's (+) differ:\n%s", diff)
	}
}

// No answer is more to a browser than it is; only the reference is a page.
func TestFront_SecureHeaders(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	const strict = "default-src 'none'; frame-ancestors 'none'"
	for path, wanted := range map[string]struct {
		status int
		policy string
	}{
		"/api/v1/clients":        {http.StatusMethodNotAllowed, strict},
		"/api/v1/clients/a":      {http.StatusUnauthorized, strict},
		"/.well-known/jwks.json": {http.StatusOK, strict},
		"/livez":                 {http.StatusOK, strict},
		"/nowhere":               {http.StatusNotFound, strict},
		"/openapi.yaml":          {http.StatusOK, strict},
		"/docs/scalar.js":        {http.StatusOK, strict},
		"/docs": {http.StatusOK,
			"default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; " +
				"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		a := f.do(t, request)
		if a.status != wanted.status || a.header.Get("Content-Security-Policy") != wanted.policy ||
			a.header.Get("X-Content-Type-Options") != "nosniff" || a.header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %d %v", path, a.status, a.header)
		}
	}
}

// The reference sends those who try it to the external issuer, once its token endpoint is
// known, if browsers may be sent there.
func TestReference_ExternalIssuer(t *testing.T) {
	t.Parallel()
	get := func(f *testFront, path string) *answer {
		a := newAnswer()
		f.ServeHTTP(a, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return a
	}
	issuer := authtest.NewIssuer(t, "https://login.example", authtest.NewKey(t, "1", jwt.SigningMethodES256))
	f := withIssuer(t, issuer.URL, issuer, true)
	localtest.Eventually(t, "the document has the issuer's token endpoint", func() bool {
		return bytes.Contains(get(f, "/openapi.yaml").Bytes(), []byte(`tokenUrl: "https://login.example/oauth/token"`))
	})
	if policy := get(f, "/docs").header.Get("Content-Security-Policy"); !strings.Contains(policy,
		"connect-src 'self' https://login.example;") {
		t.Errorf("the policy is %s", policy)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"issuer": "https://plain.example", "jwks_uri": "https://plain.example/jwks", "token_endpoint": "x"}`)
	})
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"keys": []}`) })
	f = withIssuer(t, "https://plain.example", authtest.InMemory{Handler: mux}, false)
	localtest.Eventually(t, "the keys of the issuer are read",
		func() bool { return f.logs.FilterMessage("the keys of the external issuer have changed").Len() > 0 })
	if policy := get(f, "/docs").header.Get("Content-Security-Policy"); !strings.Contains(policy,
		"connect-src 'self';") {
		t.Errorf("the policy is %s", policy)
	}
}

// With the built-in issuer off, the front serves none of its paths.
func TestRoutes_NoBuiltinIssuer(t *testing.T) {
	t.Parallel()
	issuer := authtest.NewIssuer(t, "https://issuer.example", authtest.NewKey(t, "1", jwt.SigningMethodES256))
	f := withIssuer(t, issuer.URL, issuer, true)
	for _, target := range []string{"POST /oauth/token", "GET /.well-known/jwks.json",
		"GET /.well-known/oauth-authorization-server"} {
		method, path, _ := strings.Cut(target, " ")
		a := newAnswer()
		f.ServeHTTP(a, httptest.NewRequestWithContext(t.Context(), method, path,
			strings.NewReader("grant_type=client_credentials")))
		a.checkProblem(t, http.StatusNotFound, "no_such_path: ")
	}
}
