package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"intake"
)

// A conformanceCase is a file of internal/decode/testdata/cases; its README describes the fields.
type conformanceCase struct {
	Name    string
	Why     string
	Saved   []json.RawMessage
	Request []json.RawMessage
	Body    string
	Expect  []expectedItem
	HTTP    int
	Count   *struct{ Records, Claims int }
}

type expectedItem struct {
	State intake.State
	Code  intake.Code
	Says  []string
}

func readCases(t *testing.T) (cases []conformanceCase) {
	t.Helper()
	files, err := filepath.Glob("../../internal/decode/testdata/cases/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases found", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var c conformanceCase
		if err := json.Unmarshal(text, &c); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		cases = append(cases, c)
	}
	return cases
}

// The contract's cases, over HTTP, against the whole stack. Each has a partner
// of its own, so that what it counts is its own. What is sent and answered is as
// documented.
func TestCases(t *testing.T) {
	t.Parallel()
	s, d := startStack(t, stackOptions{}), newDocumented(t)
	for _, c := range readCases(t) {
		secret := s.addPartner(t, "case-"+c.Name)
		if err := s.fronts[0].auth.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Run(c.Name, func(t *testing.T) { s.runCase(t, d, c, "case-"+c.Name, secret) })
	}
}

func (s *stack) runCase(t *testing.T, d *documented, c conformanceCase, partner, secret string) {
	ctx, f := t.Context(), s.fronts[0]
	client := s.client(d.context(ctx), f, partner, secret)
	if len(c.Saved) > 0 {
		a, err := post(ctx, client, f, join(c.Saved), "")
		if err != nil || a.http != http.StatusOK {
			t.Fatalf("saved before: %+v %v", a, err)
		}
		for i, item := range a.Result {
			if item.Status.Code != intake.CodeSaved {
				t.Fatalf("saved before: item %d is %s: %s", i, item.Status.Code, item.Status.Reason)
			}
		}
	}
	a, err := post(ctx, client, f, c.body(), "")
	if err != nil {
		t.Fatal(err)
	}
	if c.HTTP != 0 {
		if a.http != c.HTTP {
			t.Errorf("answered %d, want %d", a.http, c.HTTP)
		}
	} else {
		compareItems(t, c, a)
	}
	if c.Count == nil {
		return
	}
	records := s.count(t, "select count(*) from saved_clients where partner = $1", partner)
	claims := s.count(t, "select coalesce(sum(claims), 0) from saved_clients where partner = $1", partner)
	if records != c.Count.Records || claims != c.Count.Claims {
		t.Errorf("%d records and %d claims are saved, want %+v", records, claims, *c.Count)
	}
}

func (c *conformanceCase) body() []byte {
	if c.Request != nil {
		return join(c.Request)
	}
	return []byte(c.Body)
}

func compareItems(t *testing.T, c conformanceCase, a answer) {
	t.Helper()
	if a.http != http.StatusOK || a.Status != intake.Completed || len(a.Result) != len(c.Expect) {
		t.Fatalf("answered %d %v (%s) with %d items, want %d", a.http, a.Status, a.refused.Detail, len(a.Result),
			len(c.Expect))
	}
	for i, want := range c.Expect {
		got := a.Result[i]
		if got.Status.State != want.State || got.Status.Code != want.Code {
			t.Errorf("item %d is %s/%s (%s), want %s/%s", i, got.Status.State, got.Status.Code, got.Status.Reason,
				want.State, want.Code)
		}
		for _, says := range want.Says {
			if !strings.Contains(got.Status.Reason, says) {
				t.Errorf("item %d says %q, which lacks %q", i, got.Status.Reason, says)
			}
		}
		if (got.Status.Reason == "") != (want.Code == intake.CodeSaved) {
			t.Errorf("item %d is %s and says %q", i, want.Code, got.Status.Reason)
		}
		if c.Request != nil && string(got.Data) != string(c.Request[i]) {
			t.Errorf("item %d came back changed: %s", i, got.Data)
		}
	}
}

// join makes a batch of items, each as it is.
func join(items []json.RawMessage) []byte {
	body := []byte{'['}
	for i, item := range items {
		if i > 0 {
			body = append(body, ',', '\n')
		}
		body = append(body, item...)
	}
	return append(body, ']')
}
