package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"intake/internal/local/localtest"
)

// A front and a worker that may do no more in Postgres than they need pass the
// contract's cases, answer a repeat and a status check, and make the partitions.
func TestRoles(t *testing.T) {
	t.Parallel()
	owner, worker, front := localtest.PostgresRoles(t)
	s := startStack(t, stackOptions{flags: serverFlags{PostgresURL: owner}, workerURL: worker, frontURL: front})
	d := newDocumented(t)
	for _, c := range readCases(t) {
		secret := s.addPartner(t, "case-"+c.Name)
		if err := s.fronts[0].auth.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Run(c.Name, func(t *testing.T) { s.runCase(t, d, c, "case-"+c.Name, secret) })
	}

	client := s.client(t.Context(), s.fronts[0], "acme", s.secret)
	do := func(method, path, body string) (*http.Response, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, s.fronts[0].url()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Idempotency-Key", "key")
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%s %s is answered %s %s: %v", method, path, response.Status, text, err)
		}
		return response, string(text)
	}
	first, said := do(http.MethodPost, "/api/v1/clients", "["+itemOf("a", 1)+"]")
	again, saidAgain := do(http.MethodPost, "/api/v1/clients", "["+itemOf("a", 1)+"]")
	if said != saidAgain || first.Header.Get("Idempotent-Replayed") != "" ||
		again.Header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("a repeat is answered %v %s, first %s", again.Header, saidAgain, said)
	}
	_, uri, _ := strings.Cut(said, `"status_check_uri":"`)
	uri, _, _ = strings.Cut(uri, `"`)
	if _, status := do(http.MethodGet, uri, ""); !strings.Contains(status, `"saved"`) {
		t.Errorf("the status is %s", status)
	}
	do(http.MethodGet, "/api/v1/clients/a", "")
	do(http.MethodPost, "/api/v1/clients/reconcile", `["a"]`)

	deadline := time.Now().Add(30 * time.Second)
	for s.count(t, "select count(*) from pg_inherits where inhparent = 'batch_status'::regclass") < 9 {
		if time.Now().After(deadline) {
			t.Fatal("the worker makes no partitions")
		}
		<-time.After(50 * time.Millisecond)
	}
}

// Migrate says which roles are missing.
func TestMigrate_MissingRoles(t *testing.T) {
	t.Parallel()
	_, errs := outputOf(t, 0, "migrate", "--postgres-url="+localtest.OwnPostgres(t).URL())
	for _, role := range []string{"intake_front", "intake_worker"} {
		if !strings.Contains(errs, role) {
			t.Errorf("migrate says nothing of %s:\n%s", role, errs)
		}
	}
}
