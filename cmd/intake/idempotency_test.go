package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"intake"
	"intake/internal/decode"
	"intake/worker/queue"
)

// A keyed answer is all that a request with an Idempotency-Key got.
type keyedAnswer struct {
	status   int
	replayed bool
	retry    string
	body     string
}

func (a keyedAnswer) String() string {
	return fmt.Sprintf("%d, replayed %v: %.300s", a.status, a.replayed, a.body)
}

func postKeyed(t *testing.T, client *http.Client, f *frontProcess, key, body, prefer string) keyedAnswer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url()+"/api/v1/clients",
		strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", key)
	request.Header.Set("Prefer", prefer)
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return keyedAnswer{response.StatusCode, response.Header.Get("Idempotent-Replayed") == "true",
		response.Header.Get("Retry-After"), string(text)}
}

func body(ids ...string) string {
	var b bytes.Buffer
	for _, id := range ids {
		fmt.Fprintf(&b, `,{"partner_client_id":%q,"entity_type":"X"}`, id)
	}
	return "[" + strings.TrimPrefix(b.String(), ",") + "]"
}

// A repeat gets the first answer, byte for byte, from any front, whatever it was;
// and saves nothing.
func TestIdempotency(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{fronts: 2})
	client := s.client(newDocumented(t).context(t.Context()), s.fronts[0], "acme", s.secret)
	mixed := `[{"partner_client_id":"mixed","entity_type":"X"}, {"partner_client_id":"mixed-bad"}, {"partner_client_id":"mixed","entity_type":"X"}]`
	for _, test := range []struct {
		name, body, prefer string
		status             int
		checked            bool // its status can be checked
	}{
		{"saved", body("a", "b"), "", 200, true},
		{"duplicates", body("a"), "", 200, true},
		{"mixed", mixed, "", 200, true},
		{"minimal", body("minimal"), "return=minimal", 200, true},
		{"all-rejected", `[{"partner_client_id":"x"},7]`, "", 200, true},
		{"pending", body("pending"), "respond-async", 202, true},
		{"not-a-batch", `[`, "", 400, false},
		{strings.Repeat("~", 255), body("long-key"), "", 200, true},
	} {
		first := postKeyed(t, client, s.fronts[0], test.name, test.body, test.prefer)
		if first.status != test.status || first.replayed {
			t.Fatalf("%s: %s", test.name, first)
		}
		for n := range 4 {
			// What a repeat would rather have does not count.
			again := postKeyed(t, client, s.fronts[n%2], test.name, test.body, "wait=5")
			if again.status != first.status || again.body != first.body || again.replayed != test.checked {
				t.Errorf("%s: first %s\nagain %s", test.name, first, again)
			}
		}
		if !test.checked {
			continue
		}
		if other := postKeyed(t, client, s.fronts[1], test.name, test.body+" ", ""); other.status != 422 ||
			other.replayed {
			t.Errorf("%s: with another body %s", test.name, other)
		}
		_, id, _ := strings.Cut(first.body, `"status_check_id":"`)
		final(t, client, s.fronts[1], id[:36])
	}
	if n := s.count(t, "select count(*) from saved_clients"); n != 6 {
		t.Errorf("%d clients are saved, want 6", n)
	}
	for _, key := range []string{"", " ", "a b", "é", "a\tb", strings.Repeat("x", 256)} {
		if a := postKeyed(t, client, s.fronts[0], key, body("bad key"), ""); a.status != 400 {
			t.Errorf("key %q: %s", key, a)
		}
	}
	// Another partner's keys are others.
	secret := s.addPartner(t, "other")
	if err := s.fronts[0].auth.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := postKeyed(t, s.client(t.Context(), s.fronts[0], "other", secret), s.fronts[0], "saved", body("c"),
		""); a.status != 200 || a.replayed {
		t.Errorf("another partner: %s", a)
	}
}

// Of many with the same key at once one is the first; the others are told to wait,
// or get its answer.
func TestIdempotency_Concurrently(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{fronts: 2, workers: 2})
	client := s.client(t.Context(), s.fronts[0], "acme", s.secret)
	for round := range 10 {
		key := fmt.Sprint("key-", round)
		answers := make([]keyedAnswer, 16)
		var sending sync.WaitGroup
		for n := range answers {
			sending.Go(func() {
				for range 1_000 {
					if answers[n] = postKeyed(t, client, s.fronts[n%2], key, body(key),
						""); answers[n].status != http.StatusConflict {
						return
					}
					if answers[n].retry == "" || answers[n].replayed {
						t.Errorf("%s", answers[n])
					}
				}
			})
		}
		sending.Wait()
		firsts := 0
		for _, a := range answers {
			if !a.replayed {
				firsts++
			}
			if a.status != 200 || a.body != answers[0].body || !strings.Contains(a.body, `"code":"saved"`) {
				t.Errorf("%s\nand %s", a, answers[0])
			}
		}
		if firsts != 1 {
			t.Errorf("%d were the first", firsts)
		}
	}
}

// The first request died half-way: before it queued the batch, after that, when
// it was saved, or when it was withdrawn. The repeat makes it whole, and its
// Completed items are no Duplicates.
func TestIdempotency_FirstDied(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	f := s.fronts[0]
	client := s.client(t.Context(), f, "acme", s.secret)
	partner := int32(s.count(t, "select id from partners where name = 'acme'"))
	// dead leaves what a front leaves that dies: a reservation whose lease is over.
	dead := func(t *testing.T, key, text string) uuid.UUID {
		id, err := queue.NewBatch()
		if err != nil {
			t.Fatal(err)
		}
		if reservation, err := f.store.Reserve(t.Context(), partner, key, sha256.Sum256([]byte(text)), id,
			-time.Second); err != nil || reservation.State != intake.ReservationFresh {
			t.Fatal(reservation, err)
		}
		return id
	}
	batchOf := func(t *testing.T, id uuid.UUID, text string) *intake.Batch {
		p := intake.Partner{ID: partner, Name: "acme", Currency: "GBP"}
		items, err := decode.Batch([]byte(text), &p, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return &intake.Batch{ID: id, Partner: p, Items: items, Verdicts: make([]intake.Verdict, len(items))}
	}
	var ids []string
	for i := range 1_500 { // two chunks
		ids = append(ids, fmt.Sprint("large-", i))
	}
	check := func(t *testing.T, key, text string, n int) {
		t.Helper()
		first := postKeyed(t, client, f, key, text, "")
		if first.status != 200 || first.replayed || strings.Count(first.body, `"code":"saved"`) != n {
			t.Fatalf("the one who takes over: %s", first)
		}
		if again := postKeyed(t, client, f, key, text, ""); !again.replayed || again.body != first.body {
			t.Errorf("again: %s", again)
		}
	}
	t.Run("not-queued", func(t *testing.T) {
		dead(t, "not-queued", body("a"))
		check(t, "not-queued", body("a"), 1)
	})
	t.Run("saved", func(t *testing.T) {
		text := body(ids...)
		ticket, err := f.queue.Submit(t.Context(), batchOf(t, dead(t, "saved", text), text), queue.Waiting)
		if err != nil {
			t.Fatal(err)
		}
		defer ticket.Release()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if !ticket.Wait(ctx) {
			t.Fatal("it is not saved")
		}
		check(t, "saved", text, len(ids))
	})
	t.Run("queued", func(t *testing.T) {
		release := s.lockClients(t)
		ticket, err := f.queue.Submit(t.Context(), batchOf(t, dead(t, "queued", body("b")), body("b")), queue.Waiting)
		if err != nil {
			t.Fatal(err)
		}
		defer ticket.Release()
		time.AfterFunc(300*time.Millisecond, release)
		check(t, "queued", body("b"), 1)
	})
	t.Run("withdrawn", func(t *testing.T) {
		batch := batchOf(t, dead(t, "withdrawn", body("c")), body("c"))
		chunk := &intake.Chunk{Batch: batch.ID, Chunks: 1, Partner: partner, Len: 1}
		if ok, err := f.store.Withdraw(t.Context(), []*intake.Chunk{chunk}, nil); !ok || err != nil {
			t.Fatal(ok, err)
		}
		check(t, "withdrawn", body("c"), 1)
	})
	t.Run("queued-late", func(t *testing.T) {
		// A front that was stopped for long, and goes on when a repeat has taken over.
		id := dead(t, "late", body("d"))
		check(t, "late", body("d"), 1)
		ticket, err := f.queue.Submit(t.Context(), batchOf(t, id, body("d")), queue.Waiting)
		if err != nil {
			t.Fatal(err)
		}
		ticket.Release()
		if n := s.count(t, "select count(*) from saved_clients where partner_client_id = 'd'"); n != 1 {
			t.Errorf("%d are saved", n)
		}
	})
	if n := s.count(t, "select count(*) from saved_clients"); n != 4+len(ids) {
		t.Errorf("%d clients are saved", n)
	}
}
