package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"intake"
	"intake/internal/local/localtest"
	"intake/worker/queue"
)

// check asks for the status of a batch.
func check(ctx context.Context, client *http.Client, f *frontProcess, id string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url()+"/api/v1/clients/status/"+id, nil)
	if err != nil {
		return answer{}, err
	}
	response, err := client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	a := answer{http: response.StatusCode}
	return a, json.NewDecoder(response.Body).Decode(&a)
}

// final checks the status of a batch until it is final.
func final(t *testing.T, client *http.Client, f *frontProcess, id string) (a answer) {
	t.Helper()
	localtest.Eventually(t, "the batch is final", func() bool {
		var err error
		if a, err = check(t.Context(), client, f, id); err != nil || a.http != http.StatusOK {
			t.Fatalf("status of %s: %+v %v", id, a, err)
		}
		return a.Status == intake.Completed
	})
	return a
}

// The contract's cases, none of which waits: the status check tells what the
// answer would have told.
func TestCases_Async(t *testing.T) {
	t.Parallel()
	s, d := startStack(t, stackOptions{}), newDocumented(t)
	for _, c := range readCases(t) {
		if c.HTTP != 0 {
			continue
		}
		partner := "case-" + c.Name
		secret := s.addPartner(t, partner)
		if err := s.fronts[0].auth.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Run(c.Name, func(t *testing.T) {
			client := s.client(d.context(t.Context()), s.fronts[0], partner, secret)
			if len(c.Saved) > 0 {
				if a, err := post(t.Context(), client, s.fronts[0], join(c.Saved), ""); err != nil ||
					a.http != http.StatusOK {
					t.Fatalf("saved before: %+v %v", a, err)
				}
			}
			a, err := post(t.Context(), client, s.fronts[0], c.body(), "respond-async")
			if err != nil {
				t.Fatal(err)
			}
			pending := false
			for i := range a.Result {
				pending = pending || a.Result[i].Status.Code == intake.CodePending
			}
			if pending != (a.http == http.StatusAccepted) || pending != (a.Status == intake.Pending) {
				t.Errorf("answered %d %v, with pending items: %v", a.http, a.Status, pending)
			}
			if pending {
				a = final(t, client, s.fronts[0], a.ID)
			}
			compareItems(t, c, a)
		})
	}
}

// Batches that share a message, and one that takes several, are told apart; and
// when the log has them no more, their states are as before.
func TestStatus(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{fronts: 2})
	client := s.client(t.Context(), s.fronts[0], "acme", s.secret)
	bodies := make([][]byte, 40)
	for n := range bodies {
		bodies[n] = fmt.Appendf(nil,
			`[{"partner_client_id":"%d \u00e9 \"x\"","entity_type":"X"}, {"partner_client_id":"bad-%[1]d"}, 7]`, n)
	}
	var large bytes.Buffer
	for i := range 2_500 {
		fmt.Fprintf(&large, `,{"partner_client_id":"large-%d","entity_type":"X","other_identifiers":[{"key":"k","values":["%d"]}]}`, i, i)
	}
	large.WriteByte(']')
	large.Bytes()[0] = '['
	bodies = append(bodies, large.Bytes())
	answers := make([]answer, len(bodies))
	var sending sync.WaitGroup
	for n, body := range bodies {
		sending.Go(func() {
			var err error
			if answers[n], err = post(t.Context(), client, s.fronts[0], body, "respond-async"); err != nil ||
				answers[n].http != http.StatusAccepted {
				t.Errorf("%+v %v", answers[n], err)
			}
		})
	}
	sending.Wait()
	for n, body := range bodies {
		var items []json.RawMessage
		if err := json.Unmarshal(body, &items); err != nil {
			t.Fatal(err)
		}
		// The other front knows it as well.
		a := final(t, client, s.fronts[1], answers[n].ID)
		if len(a.Result) != len(items) || a.ID != answers[n].ID || a.URI != answers[n].URI {
			t.Fatalf("batch %d: %d items of %d, %s %s", n, len(a.Result), len(items), a.ID, a.URI)
		}
		for i := range items {
			if string(a.Result[i].Data) != string(items[i]) {
				t.Errorf("batch %d: item %d is %s", n, i, a.Result[i].Data)
			}
		}
		answers[n] = a
	}

	js, err := jetstream.New(s.fronts[0].nats)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), queue.StreamName)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n := range bodies {
		a := final(t, client, s.fronts[0], answers[n].ID)
		for i := range a.Result {
			if got, before := a.Result[i].Status, answers[n].Result[i].Status; got != before {
				t.Errorf("batch %d: item %d was %v and is %v", n, i, before, got)
			}
			var data, kept map[string]any
			_ = json.Unmarshal(answers[n].Result[i].Data, &data)
			if err := json.Unmarshal(a.Result[i].Data, &kept); err != nil ||
				kept["partner_client_id"] != data["partner_client_id"] || len(kept) > 1 {
				t.Errorf("batch %d: item %d is %s (%v)", n, i, a.Result[i].Data, err)
			}
		}
	}

	// Another partner's batch is not there.
	secret := s.addPartner(t, "other")
	if err := s.fronts[0].auth.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := s.client(t.Context(), s.fronts[0], "other", secret)
	for _, id := range []string{answers[0].ID, "0193a1b2-0000-7000-8000-000000000000", "x", ""} {
		if a, err := check(t.Context(), other, s.fronts[0], id); err != nil || a.http != http.StatusNotFound {
			t.Errorf("%q: %+v %v", id, a, err)
		}
	}
}

// The status of a pending batch can be read before any worker has seen it.
func TestStatus_Pending(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	client := s.client(t.Context(), s.fronts[0], "acme", s.secret)
	lock := s.lockClients(t)
	a, err := post(t.Context(), client, s.fronts[0],
		[]byte(`[{"partner_client_id":"a","entity_type":"X"},{"partner_client_id":"b"}]`), "respond-async")
	if err != nil || a.http != http.StatusAccepted {
		t.Fatalf("%+v %v", a, err)
	}
	for range 3 {
		if a, err = check(t.Context(), client, s.fronts[0], a.ID); err != nil || a.http != http.StatusOK {
			t.Fatalf("%+v %v", a, err)
		}
		codes := []intake.Code{a.Result[0].Status.Code, a.Result[1].Status.Code}
		if diff := cmp.Diff([]intake.Code{intake.CodePending, intake.CodeInvalid}, codes); diff != "" ||
			a.Status != intake.Pending {
			t.Fatalf("status %s, codes (-want +got):\n%s", a.Status, diff)
		}
	}
	lock()
	if a = final(t, client, s.fronts[0], a.ID); a.Result[0].Status.Code != intake.CodeSaved {
		t.Errorf("%+v", a)
	}
}

// lockClients blocks the insertion of clients until release is called.
func (s *stack) lockClients(t *testing.T) (release func()) {
	t.Helper()
	tx, err := s.conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "lock partner_clients in exclusive mode"); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	t.Cleanup(release)
	return release
}
