package front_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"intake"
	"intake/worker/queue"
)

func (f *testFront) get(t *testing.T, path, token string) *answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	return f.do(t, request)
}

// What is saved is asked of the data store: without it there is no answer, and
// a dry run never touches queue, keys or states of others.
func TestRecords(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	token := f.token(t)
	f.store.records = map[string]intake.Record{"a": {ID: "a"}}
	if a := f.get(t, "/api/v1/clients/a", token); a.status != http.StatusOK ||
		!strings.Contains(a.String(),
			`"partner_client_id":"a","fingerprint":"00000000000000000000000000000000","revenue_claims":3`) {
		t.Errorf("%d %s", a.status, a.Bytes())
	}
	f.get(t, "/api/v1/clients/b", token).checkProblem(t, 404, "partner_client_id")
	f.get(t, "/api/v1/clients/a", "x").checkProblem(t, 401, "")
	f.get(t, "/api/v1/clients/a/b", token).checkProblem(t, 404, "path")
	f.get(t, "/api/v1/clients/", token).checkProblem(t, 404, "path")

	dry := func() *answer {
		t.Helper()
		return f.do(t, f.create(t, token, strings.NewReader(items("a", "c")), "Prefer", "handling=validate",
			"Idempotency-Key", "k"))
	}
	if a := dry(); a.status != http.StatusOK || a.header.Get("Preference-Applied") != "handling=validate" ||
		!strings.Contains(a.String(), `"code":"duplicate_of_saved"`) ||
		!strings.Contains(a.String(), `"state":"Completed","code":"would_be_saved"`) {
		t.Errorf("%d %v %s", a.status, a.header, a.Bytes())
	}
	f.store.away = errors.New("secret-host is away")
	reconcile := f.create(t, token, strings.NewReader(`["a"]`))
	reconcile.URL.Path += "/reconcile"
	for _, a := range []*answer{
		f.get(t, "/api/v1/clients/a", token),
		dry(),
		f.do(t, reconcile),
	} {
		a.checkProblem(t, 503, "store_unavailable: saved records are temporarily unavailable")
		if strings.Contains(a.String(), "secret-host") {
			t.Errorf("the answer shows internals: %s", a.Bytes())
		}
	}
	if n := f.queue.submitted(); n > 0 {
		t.Errorf("%d batches were queued", n)
	}
}

// A batch is in the lane of those who wait, unless nobody does.
func TestCreate_Lane(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	token := f.token(t)
	for _, test := range []struct {
		prefer string
		want   queue.Lane
	}{{"", queue.Waiting}, {"respond-async", queue.Later}, {"wait=0", queue.Later},
		{"respond-async, wait=2", queue.Waiting}} {
		f.do(t, f.create(t, token, strings.NewReader(items("a")), "Prefer", test.prefer))
		if lanes := f.queue.lanes; lanes[len(lanes)-1] != test.want {
			t.Errorf("%q: lane %d, want %d", test.prefer, lanes[len(lanes)-1], test.want)
		}
	}
}
