package front_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"intake"
)

func TestFront_Paths(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/livez", 200, ""},
		{"HEAD", "/livez", 200, ""},
		{"GET", "/readyz", 200, ""},
		{"GET", "/", 404, ""},
		{"GET", "/metrics", 404, ""},
		{"GET", "/debug/pprof/", 404, ""},
		{"GET", "/api/v1/status", 404, ""},
		{"POST", "/api/v1/clients/status/0193", 405, "GET, HEAD"},
		{"POST", "/api/v1/clients/", 404, ""},
		{"POST", "//api/v1/clients", 404, ""},
		{"GET", "/api/v1/clients", 405, "POST"},
		{"PUT", "/api/v1/clients", 405, "POST"},
		{"OPTIONS", "/api/v1/clients", 405, "POST"},
		{"GET", "/oauth/token", 405, "POST"},
		{"POST", "/livez", 405, "GET, HEAD"},
	} {
		request, err := http.NewRequestWithContext(t.Context(), c.method, f.url+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		a := f.do(t, request)
		if a.status != c.status || a.header.Get("Allow") != c.allow {
			t.Errorf("%s %s: answered %d, Allow %s; want %d, %s", c.method, c.path, a.status, a.header.Get("Allow"),
				c.status, c.allow)
		}
		if c.status >= 400 {
			a.checkProblem(t, c.status, "")
		}
	}
}

// Paths are taken as they come, and never answered with a redirect to a tidier one: an id
// may be of any characters, escaped, and one that looks like a way through folders is an
// id like any other.
func TestFront_OddPaths(t *testing.T) {
	t.Parallel()
	f := newFront(t, nil)
	token := f.token(t)
	f.store.records = map[string]intake.Record{}
	for _, id := range []string{"..", ".", "a/b", "a//b", "/", "a b", "%", "reconcile", "status", "status/x", "é",
		"a?b"} {
		f.store.records[id] = intake.Record{ID: id}
	}
	type outcome struct {
		Status int
		Code   string // of the problem
		Allow  string
		ID     string // of the record
	}
	for _, c := range []struct {
		method, path string
		want         outcome
	}{
		{"GET", "/api/v1/clients/..", outcome{Status: 200, ID: ".."}},
		{"GET", "/api/v1/clients/%2e%2e", outcome{Status: 200, ID: ".."}},
		{"GET", "/api/v1/clients/.", outcome{Status: 200, ID: "."}},
		{"GET", "/api/v1/clients/a%2Fb", outcome{Status: 200, ID: "a/b"}},
		{"GET", "/api/v1/clients/a%2F%2Fb", outcome{Status: 200, ID: "a//b"}},
		{"GET", "/api/v1/clients/%2F", outcome{Status: 200, ID: "/"}},
		{"GET", "/api/v1/clients/a%20b", outcome{Status: 200, ID: "a b"}},
		{"GET", "/api/v1/clients/%25", outcome{Status: 200, ID: "%"}},
		{"GET", "/api/v1/clients/%C3%A9", outcome{Status: 200, ID: "é"}},
		{"GET", "/api/v1/clients/a%3Fb", outcome{Status: 200, ID: "a?b"}},
		{"GET", "/api/v1/clients/a%3Fb?c=d", outcome{Status: 200, ID: "a?b"}},
		{"GET", "/api/v1/clients/status", outcome{Status: 200, ID: "status"}},
		{"GET", "/api/v1/clients/status%2Fx", outcome{Status: 200, ID: "status/x"}},
		{"GET", "/api/v1/clients/reconcile", outcome{Status: 200, ID: "reconcile"}},
		{"HEAD", "/api/v1/clients/reconcile", outcome{Status: 200, ID: "reconcile"}},
		{"PUT", "/api/v1/clients/reconcile", outcome{Status: 405, Code: "method_not_allowed",
			Allow: "GET, HEAD, POST"}},
		{"POST", "/api/v1/clients/reconcile", outcome{Status: 415, Code: "unsupported_content_type"}},
		{"POST", "/api/v1/clients/recon%63ile", outcome{Status: 405, Code: "method_not_allowed", Allow: "GET, HEAD"}},
		{"POST", "/api/v1/clients/reconcile/", outcome{Status: 404, Code: "no_such_path"}},
		{"GET", "/api/v1/clients/unknown", outcome{Status: 404, Code: "no_such_client"}},
		{"GET", "/api/v1/clients/%00", outcome{Status: 404, Code: "no_such_client"}},
		{"GET", "/api/v1/clients/%FF", outcome{Status: 404, Code: "no_such_client"}},
		{"DELETE", "/api/v1/clients/..", outcome{Status: 405, Code: "method_not_allowed", Allow: "GET, HEAD"}},
		{"GET", "/api/v1/clients/", outcome{Status: 404, Code: "no_such_path"}},
		{"GET", "/api/v1/clients//", outcome{Status: 404, Code: "no_such_path"}},
		{"GET", "/api/v1/clients/a/", outcome{Status: 404, Code: "no_such_path"}},
		{"GET", "/api/v1/clients/a/b", outcome{Status: 404, Code: "no_such_path"}},
		{"GET", "/api/v1/clients//a", outcome{Status: 404, Code: "no_such_path"}},
		{"GET", "/api/v1/clients/a/../b", outcome{Status: 404, Code: "no_such_path"}},
		{"GET", "/api/v1/clients/status/", outcome{Status: 404, Code: "no_such_batch"}},
		{"GET", "/api/v1/clients/status/..", outcome{Status: 404, Code: "no_such_batch"}},
		{"GET", "/api/v1/clients/status/a/b", outcome{Status: 404, Code: "no_such_batch"}},
		{"GET", "/api/v1/clients/status/0193A000-0000-7000-8000-000000000000",
			outcome{Status: 404, Code: "no_such_batch"}},
		{"POST", "/api/v1/clients/", outcome{Status: 404, Code: "no_such_path"}},
		{"POST", "//api/v1/clients", outcome{Status: 404, Code: "no_such_path"}},
		{"POST", "/api//v1/clients", outcome{Status: 404, Code: "no_such_path"}},
		{"POST", "/api/v1/./clients", outcome{Status: 404, Code: "no_such_path"}},
		{"POST", "/api/../api/v1/clients", outcome{Status: 404, Code: "no_such_path"}},
		{"POST", "/api/v1/clients", outcome{Status: 415, Code: "unsupported_content_type"}},
		{"GET", "/livez/", outcome{Status: 404, Code: "no_such_path"}},
		{"GET", "/problems/", outcome{Status: 404, Code: "no_such_path"}},
		{"GET", "/problems/..", outcome{Status: 404, Code: "no_such_path"}},
		{"GET", "/problems/no_memory", outcome{Status: 303}},
	} {
		// As a server reads it, whatever a client would make of such a path.
		request := httptest.NewRequestWithContext(t.Context(), c.method, c.path, http.NoBody)
		request.Header.Set("Authorization", "Bearer "+token)
		a := newAnswer()
		f.ServeHTTP(a, request)
		got := outcome{Status: a.status, Allow: a.header.Get("Allow")}
		var body struct {
			Code string
			ID   string `json:"partner_client_id"`
		}
		if strings.Contains(a.header.Get("Content-Type"), "json") {
			if err := json.Unmarshal(a.Bytes(), &body); err != nil {
				t.Errorf("%s %s: %v", c.method, c.path, err)
			}
		}
		got.Code, got.ID = body.Code, body.ID
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.method, c.path, diff)
		}
	}
}
