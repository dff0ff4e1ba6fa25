package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"intake"
)

// itemOf is an item with one claim; variants of it have different data.
func itemOf(id string, variant int) string {
	return fmt.Sprintf(`{"partner_client_id":%q,"entity_type":"SoleTrader","revenue_claims":[{"start_date":"2025-01-01T00:00:00.000Z",`+
		`"end_date":"2025-01-31T23:59:59.999Z","time_period":"Monthly","currency":"GBP","total_amount":%d.5,"transaction_count":1}]}`, id, variant)
}

// A sending is an item of a batch: which key with which of its data.
type sending struct{ key, variant int }

func (s sending) id() string { return fmt.Sprintf("key-%d", s.key) }

func bodyOf(batch []sending) []byte {
	items := make([]string, len(batch))
	for i, s := range batch {
		items[i] = itemOf(s.id(), s.variant)
	}
	return []byte("[" + strings.Join(items, ",") + "]")
}

// Many clients send the same keys at once, with the same data and with other
// data, over two fronts and two workers. Each key is saved once; one answer says
// so, and all others call it a duplicate and tell whether the data is the same.
func TestCreateOnce(t *testing.T) {
	t.Parallel()
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		createOnce(t, stackOptions{fronts: 2, workers: 2}, nil)
	})
	t.Run("redis emptied", func(t *testing.T) {
		t.Parallel()
		createOnce(t, stackOptions{fronts: 2, workers: 2}, func(s *stack) {
			options, err := redis.ParseURL(s.flags.RedisURL)
			if err != nil {
				t.Fatal(err)
			}
			client := redis.NewClient(options)
			defer client.Close()
			if err := client.FlushAll(t.Context()).Err(); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("no redis", func(t *testing.T) {
		t.Parallel()
		createOnce(t, stackOptions{fronts: 2, workers: 2, noRedis: true}, nil)
	})
}

const (
	onceClients = 64
	onceKeys    = 10_000
	onceRounds  = 4 // each key is sent in each
)

// onceBatches are batches of 1 to 100 items, no key twice in one.
func onceBatches(random *rand.Rand) (batches [][]sending) {
	for range onceRounds {
		keys := random.Perm(onceKeys)
		for len(keys) > 0 {
			n := min(1+random.IntN(100), len(keys))
			batch := make([]sending, n)
			for i, key := range keys[:n] {
				batch[i] = sending{key, random.IntN(2)}
			}
			batches, keys = append(batches, batch), keys[n:]
		}
	}
	random.Shuffle(len(batches), func(i, j int) { batches[i], batches[j] = batches[j], batches[i] })
	return batches
}

func createOnce(t *testing.T, opts stackOptions, inTheMiddle func(*stack)) {
	s := startStack(t, opts)
	random := rand.New(rand.NewPCG(20, 25))
	batches := onceBatches(random)
	queue := make(chan []sending)
	var mu sync.Mutex
	var judged []judgement
	var clients sync.WaitGroup
	for n := range onceClients {
		f := s.fronts[n%len(s.fronts)]
		client := s.client(t.Context(), f, "acme", s.secret)
		clients.Go(func() {
			for batch := range queue {
				got, err := sendBatch(t.Context(), client, f, batch)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				judged = append(judged, got...)
				mu.Unlock()
			}
		})
	}
	for i, batch := range batches {
		if i == len(batches)/2 && inTheMiddle != nil {
			inTheMiddle(s)
		}
		queue <- batch
	}
	close(queue)
	clients.Wait()
	checkOnce(t, s, judged)
}

// A judgement is what the answer said of an item.
type judgement struct {
	sending
	code intake.Code
	text string
}

// sendBatch sends a batch, and again for as long as its items are pending.
func sendBatch(ctx context.Context, client *http.Client, f *frontProcess, batch []sending) ([]judgement, error) {
	a, err := post(ctx, client, f, bodyOf(batch), "wait=30, return=minimal")
	if err != nil {
		return nil, err
	}
	if a.http != http.StatusOK || len(a.Result) != len(batch) {
		return nil, fmt.Errorf("answered %d (%s) with %d items for %d", a.http, a.refused.Detail, len(a.Result),
			len(batch))
	}
	judged := make([]judgement, len(batch))
	for i, item := range a.Result {
		judged[i] = judgement{batch[i], item.Status.Code, item.Status.Reason}
	}
	return judged, nil
}

func checkOnce(t *testing.T, s *stack, judged []judgement) {
	t.Helper()
	if len(judged) != onceKeys*onceRounds {
		t.Errorf("%d items were answered, want %d", len(judged), onceKeys*onceRounds)
	}
	winner := make(map[int]int)
	for _, j := range judged {
		if j.code != intake.CodeSaved {
			continue
		}
		if _, again := winner[j.key]; again {
			t.Errorf("%s was Completed twice", j.id())
		}
		winner[j.key] = j.variant
	}
	for _, j := range judged {
		if j.code == intake.CodeSaved {
			continue
		}
		variant, ok := winner[j.key]
		if want := intake.DuplicateOfSaved(variant == j.variant); !ok || j.code != want.Code || j.text != want.Text {
			t.Fatalf("%s is %s: %s; want %s (saved: %v)", j.id(), j.code, j.text, want.Text, ok)
		}
	}
	if len(winner) != onceKeys {
		t.Errorf("%d keys were Completed, want %d", len(winner), onceKeys)
	}
	wrong := 0
	rows, err := s.conn.Query(t.Context(),
		"select partner_client_id, claims, trunc(total_amount)::int from saved_clients")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var id string
		var claims, variant, key int
		if err := rows.Scan(&id, &claims, &variant); err != nil {
			t.Fatal(err)
		}
		fmt.Sscanf(id, "key-%d", &key)
		if claims != 1 || variant != winner[key] {
			wrong++
		}
		n++
	}
	if err := rows.Err(); err != nil || n != onceKeys || wrong > 0 {
		t.Errorf("%d records, %d of them not what was Completed; want %d (%v)", n, wrong, onceKeys, err)
	}
}

// An item that Postgres refuses, though validation let it pass, is Failed alone,
// within the same request.
func TestCreate_Refused(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	if _, err := s.conn.Exec(t.Context(),
		"alter table client_claims add constraint not_thirteen check (13.5 <> all (total_amounts))"); err != nil {
		t.Fatal(err)
	}
	batch := []sending{{1, 1}, {2, 2}, {3, 13}, {4, 4}}
	judged, err := sendBatch(t.Context(), s.client(t.Context(), s.fronts[0], "acme", s.secret), s.fronts[0], batch)
	if err != nil {
		t.Fatal(err)
	}
	for i, j := range judged {
		want := intake.CodeSaved
		if i == 2 {
			want = intake.CodeRefused
		}
		if j.code != want || (want == intake.CodeRefused) != strings.Contains(j.text, "not_thirteen") {
			t.Errorf("item %d is %s: %q", i, j.code, j.text)
		}
	}
	if n := s.count(t, "select count(*) from saved_clients"); n != 3 {
		t.Errorf("%d records", n)
	}
}

// What the answer calls data is the item, byte for byte.
func TestCreate_DataAsSent(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	f := s.fronts[0]
	item := "{ \"partner_client_id\" :\t\"caf\\u00e9 \u2028 \\/\",\n \"entity_type\":\"A\"  ,\"revenue_claims\": null }"
	a, err := post(t.Context(), s.client(t.Context(), f, "acme", s.secret), f, []byte(" [ "+item+" ]\n"), "")
	if err != nil || a.http != http.StatusOK || string(a.Result[0].Data) != item ||
		a.Result[0].Status.Code != intake.CodeSaved {
		t.Fatalf("%+v %v", a, err)
	}
	var id string
	if err := s.conn.QueryRow(t.Context(), "select partner_client_id from saved_clients").Scan(&id); err != nil ||
		id != "café \u2028 /" {
		t.Errorf("saved as %q %v", id, err)
	}
	if !json.Valid(a.Result[0].Data) || a.ID == "" || !strings.HasSuffix(a.URI, a.ID) {
		t.Errorf("%+v", a)
	}
}
