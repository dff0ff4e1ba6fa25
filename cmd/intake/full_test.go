package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"intake"
	"intake/internal/decode"
	"intake/internal/local/localtest"
)

// The queue is filled to the brim while nothing can be saved: then batches are
// refused, those that nobody waits for first, and nothing that was accepted is
// lost. It is emptied again, and batches are accepted as before.
func TestQueueFull(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{flags: serverFlags{QueueMaxBytes: 2 << 20}})
	f := s.fronts[0]
	client := s.client(t.Context(), f, "acme", s.secret)
	names := 0
	// A batch of about 20 KB that can't be compressed much.
	batch := func() []byte {
		var items []string
		for range 20 {
			names++
			var values []string
			for n := range 20 {
				values = append(values, fmt.Sprintf(`"%x"`, decode.Fingerprint(fmt.Appendf(nil, "%d", names*100+n))))
			}
			items = append(items, fmt.Sprintf(`{"partner_client_id":"%d","entity_type":"X","other_identifiers":[{"key":"k","values":[%s]}]}`, names, strings.Join(values, ",")))
		}
		return []byte("[" + strings.Join(items, ",") + "]")
	}
	var pending []string
	// fill sends, some at once, until a batch is refused.
	fill := func(prefer string) {
		t.Helper()
		for range 200 {
			bodies, answers := make([][]byte, 16), make([]answer, 16)
			for n := range bodies {
				bodies[n] = batch()
			}
			var sending sync.WaitGroup
			for n, body := range bodies {
				sending.Go(func() {
					var err error
					if answers[n], err = post(t.Context(), client, f, body, prefer); err != nil {
						t.Error(err)
					}
				})
			}
			sending.Wait()
			refused := 0
			for _, a := range answers {
				switch a.http {
				case http.StatusAccepted:
					pending = append(pending, a.ID)
				case http.StatusServiceUnavailable:
					refused++
					if a.refused.Code != "queue_full" {
						t.Errorf("refused as %s: %s", a.refused.Code, a.refused.Detail)
					}
				default:
					t.Fatalf("answered %d: %s", a.http, a.refused.Detail)
				}
			}
			if refused > 0 {
				return
			}
		}
		t.Fatal("the queue does not get full")
	}
	for round := range 2 {
		unlock := s.lockClients(t)
		fill("respond-async")
		later := len(pending)
		fill("respond-async, wait=1")
		if later == 0 || len(pending) == later {
			t.Errorf("round %d: %d batches were accepted, then %d of those that wait", round, later, len(pending)-later)
		}
		unlock()
		for _, id := range pending {
			a := final(t, client, f, id)
			for i := range a.Result {
				if a.Result[i].Status.Code != intake.CodeSaved {
					t.Fatalf("batch %s: item %d is %s", id, i, a.Result[i].Status.Code)
				}
			}
		}
		if n := s.count(t, "select count(*) from partner_clients"); n != 20*len(pending) {
			t.Errorf("%d records of %d batches", n, len(pending))
		}
		localtest.Eventually(t, "batches are accepted again", func() bool {
			a, err := post(t.Context(), client, f, batch(), "respond-async")
			if err != nil || a.http != http.StatusAccepted {
				return false
			}
			pending = append(pending, a.ID)
			return true
		})
		for _, id := range pending {
			final(t, client, f, id)
		}
	}
}
