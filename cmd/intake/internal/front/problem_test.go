package front_test

import (
	"net/http"
	"testing"

	"intake/cmd/intake/internal/problem"
)

// The type of a problem leads to where it is described.
func TestProblem_Type(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	f.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	get := func(code string) *answer {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+"/problems/"+code, nil)
		if err != nil {
			t.Fatal(err)
		}
		return f.do(t, request)
	}
	for code := range problem.Statuses() {
		if a := get(string(code)); a.status != http.StatusSeeOther || a.header.Get("Location") != "/docs#tag/problems" {
			t.Errorf("%s: %d %v", code, a.status, a.header)
		}
	}
	get("unheard_of").checkProblem(t, http.StatusNotFound, "no problem with this code")
}
