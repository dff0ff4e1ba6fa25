package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"intake"
	"intake/internal/decode"
	"intake/worker/queue"
)

// The contract's cases as a dry run: the states are those that the same batch
// gets when it is sent afterwards, and nothing of the dry run is kept.
func TestCases_DryRun(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	f, d := s.fronts[0], newDocumented(t)
	stream := s.stream(t)
	for _, c := range readCases(t) {
		partner := "case-" + c.Name
		secret := s.addPartner(t, partner)
		if err := f.auth.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Run(c.Name, func(t *testing.T) {
			client := s.client(d.context(t.Context()), f, partner, secret)
			if len(c.Saved) > 0 {
				if a, err := post(t.Context(), client, f, join(c.Saved), ""); err != nil || a.http != http.StatusOK {
					t.Fatalf("saved before: %+v %v", a, err)
				}
			}
			queued, records := messagesOf(t, stream), s.count(t, "select count(*) from partner_clients")
			dry, err := post(t.Context(), client, f, c.body(), "handling=validate, respond-async")
			if err != nil {
				t.Fatal(err)
			}
			if dry.ID != "" || dry.URI != "" {
				t.Errorf("the answer has the status %q at %q", dry.ID, dry.URI)
			}
			if messagesOf(t, stream) != queued || s.count(t, "select count(*) from partner_clients") != records {
				t.Error("something was queued or saved")
			}
			a, err := post(t.Context(), client, f, c.body(), "")
			if err != nil || dry.http != a.http || len(dry.Result) != len(a.Result) {
				t.Fatalf("answered %d with %d items, and %d with %d in earnest: %v", dry.http, len(dry.Result), a.http,
					len(a.Result), err)
			}
			for i := range a.Result {
				want, got := a.Result[i].Status, dry.Result[i].Status
				if want.Code == intake.CodeSaved {
					want.Code = intake.CodeWouldBeSaved
				}
				if got != want {
					t.Errorf("item %d is %+v, want %+v", i, got, want)
				}
			}
		})
	}
}

func (s *stack) stream(t *testing.T) jetstream.Stream {
	t.Helper()
	stream, err := jetStream(t, s.flags.NATSURL).Stream(t.Context(), queue.StreamName)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func messagesOf(t *testing.T, stream jetstream.Stream) uint64 {
	t.Helper()
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.State.LastSeq
}

// A partner finds out what is saved of its own, by id or with the data.
func TestRecords(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	f := s.fronts[0]
	other := s.addPartner(t, "other")
	if err := f.auth.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	documented := newDocumented(t).context(t.Context())
	client := s.client(documented, f, "acme", s.secret)
	stranger := s.client(documented, f, "other", other)
	ids := []string{"plain", "a/b c%2F?#", "status", "reconcile", "é\"\\", strings.Repeat("x", 128)}
	var items []string
	for _, id := range ids {
		quoted, _ := json.Marshal(id)
		items = append(items, fmt.Sprintf(`{"partner_client_id":%s,"entity_type":"X","revenue_claims":[{"start_date":"2025-01-01T00:00:00.000Z","end_date":"2025-01-31T23:59:59.999Z","time_period":"Monthly","currency":"GBP","total_amount":1.5,"transaction_count":1}]}`, quoted))
	}
	batch := "[" + strings.Join(items, ",") + "]"
	saved, err := post(t.Context(), client, f, []byte(batch), "")
	if err != nil || saved.http != http.StatusOK {
		t.Fatalf("%+v %v", saved, err)
	}
	type record struct {
		ID          string `json:"partner_client_id"`
		Fingerprint string `json:"fingerprint"`
		Claims      int    `json:"revenue_claims"`
		SavedAt     string `json:"saved_at"`
		Batch       string `json:"status_check_id"`
		Item        int    `json:"item"`
	}
	ask := func(client *http.Client, id string) (r record, status int) {
		t.Helper()
		status = call(t.Context(), t, client, http.MethodGet, f.url()+"/api/v1/clients/"+url.PathEscape(id), "", &r)
		return r, status
	}
	for i, id := range ids {
		fingerprint := decode.Fingerprint([]byte(items[i]))
		r, status := ask(client, id)
		if status != http.StatusOK || r.SavedAt == "" {
			t.Errorf("%q: %d %+v", id, status, r)
		}
		want := record{ID: id, Fingerprint: fmt.Sprintf("%x", fingerprint[:]), Claims: 1, SavedAt: r.SavedAt,
			Batch: saved.ID, Item: i}
		if diff := cmp.Diff(want, r); diff != "" {
			t.Errorf("%q (-want +got):\n%s", id, diff)
		}
		if _, status := ask(stranger, id); status != http.StatusNotFound {
			t.Errorf("another partner's %q: %d", id, status)
		}
	}
	for _, id := range []string{"PLAIN", "none", "\x00", "\xff", "plain "} {
		if _, status := ask(client, id); status != http.StatusNotFound {
			t.Errorf("%q: %d", id, status)
		}
	}

	type reconciled struct {
		Missing   int `json:"missing"`
		Saved     int `json:"saved"`
		Same      int `json:"saved_same"`
		Different int `json:"saved_different"`
		Invalid   int `json:"invalid"`
		Result    []struct {
			Record      string `json:"record"`
			ID          string `json:"partner_client_id"`
			Fingerprint string `json:"fingerprint"`
		} `json:"result"`
	}
	reordered := `{"entity_type":"X","partner_client_id":"plain","revenue_claims":[{"start_date":"2025-01-01T00:00:00.000Z","end_date":"2025-01-31T23:59:59.999Z","time_period":"Monthly","currency":"GBP","total_amount":1.50,"transaction_count":1}]}`
	list := `["plain", "none", ` + items[1] + `, {"partner_client_id":"plain"}, ` + reordered +
		`, 7, "", {}, "\u0000", "\ud800", {"partner_client_id":"none","entity_type":"X"}]`
	wants := []string{"saved", "missing", "saved_same", "saved_different", "saved_same", "invalid", "invalid",
		"invalid", "missing", "missing", "missing"}
	var got reconciled
	if status := call(t.Context(), t, client, http.MethodPost, f.url()+"/api/v1/clients/reconcile", list,
		&got); status != http.StatusOK || len(got.Result) != len(wants) {
		t.Fatalf("%d %+v", status, got)
	}
	for i, want := range wants {
		if got.Result[i].Record != want || strings.HasPrefix(want, "saved") != (got.Result[i].Fingerprint != "") {
			t.Errorf("entry %d is %+v, want %s", i, got.Result[i], want)
		}
	}
	counts := reconciled{Missing: 4, Saved: 1, Same: 2, Different: 1, Invalid: 3, Result: got.Result}
	if diff := cmp.Diff(counts, got); diff != "" {
		t.Errorf("the counts differ (-want +got):\n%s", diff)
	}
	if call(t.Context(), t, stranger, http.MethodPost, f.url()+"/api/v1/clients/reconcile", batch,
		&got); got.Missing != len(ids) {
		t.Errorf("another partner's: %+v", got)
	}
	tooMany := "[" + strings.Repeat(`"x",`, 10_000) + `"x"]`
	for body, want := range map[string]int{tooMany: 413, `{}`: 400, `[]`: 400, `["x"`: 400} {
		if status := call(t.Context(), t, client, http.MethodPost, f.url()+"/api/v1/clients/reconcile", body,
			nil); status != want {
			t.Errorf("%.20s: %d, want %d", body, status, want)
		}
	}
}

// call makes a request, and reads its answer.
func call(ctx context.Context, t *testing.T, client *http.Client, method, url, body string, answer any) int {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if answer != nil {
		if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
			t.Fatal(err)
		}
	}
	return response.StatusCode
}

// Send judges and compares files before and after it sends them, over one
// connection or several.
func TestSend_DryRunAndCheck(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	file := filepath.Join(t.TempDir(), "batches.json")
	batches := `[{"partner_client_id":"a","entity_type":"X"},{"partner_client_id":"b","entity_type":"X"}] [{"partner_client_id":"c","entity_type":"X"}]`
	if err := os.WriteFile(file, []byte(batches), 0o600); err != nil {
		t.Fatal(err)
	}
	send := func(status int, want string, flags ...string) {
		t.Helper()
		args := append([]string{"send", file, "--json", "--url=" + s.fronts[0].url(), "--client-id=acme",
			"--client-secret=" + s.secret}, flags...)
		if out, _ := outputOf(t, status, args...); !strings.Contains(out, want) {
			t.Errorf("send %v says %s, want %s", flags, out, want)
		}
	}
	send(1, `"records":{"missing":3}`, "--check")
	send(0, `"codes":{"would_be_saved":3}`, "--dry-run")
	send(0, `"codes":{"would_be_saved":3}`, "--dry-run", "--stream")
	send(1, `"records":{"missing":3}`, "--check")
	send(0, `"codes":{"saved":3}`, "--stream")
	send(0, `"records":{"saved_same":3}`, "--check")
	send(0, `"codes":{"duplicate_of_saved":3}`, "--dry-run")
	if err := os.WriteFile(file, []byte(`[{"partner_client_id":"a","entity_type":"Y"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	send(1, `"records":{"saved_different":1}`, "--check")
}
