package front_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pb33f/libopenapi"

	"intake/cmd/intake/internal/reference"
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
		"/docs": {http.StatusOK, "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; " +
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
