package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The plain handler is the obvious implementation: it decodes the request, validates it, and
// saves it in its own transaction, with the statements that pgx is good at. It names fewer
// errors than Intake, and promises nothing about requests that are repeated or aborted.
type naive struct{ pool *pgxpool.Pool }

type naiveItem struct {
	ID          string          `json:"partner_client_id"`
	StartDate   *time.Time      `json:"client_start_date"`
	EntityType  string          `json:"entity_type"`
	Identifiers json.RawMessage `json:"other_identifiers"`
	Claims      []naiveClaim    `json:"revenue_claims"`
}

type naiveClaim struct {
	Start    time.Time   `json:"start_date"`
	End      time.Time   `json:"end_date"`
	Period   string      `json:"time_period"`
	Currency string      `json:"currency"`
	Amount   json.Number `json:"total_amount"`
	Count    int64       `json:"transaction_count"`
}

// serveNaive serves on a free port, and prints its URL.
func serveNaive(ctx context.Context, url string) error {
	pool, err := pgxpool.New(ctx, url) // with the default number of connections
	if err != nil {
		return err
	}
	defer pool.Close()
	n := &naive{pool}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /oauth/token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"any","token_type":"Bearer","expires_in":3600}`)
	})
	mux.HandleFunc("POST /api/v1/clients", n.create)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	fmt.Printf("http://%s\n", listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (n *naive) create(w http.ResponseWriter, r *http.Request) {
	var items []naiveItem
	if err := json.NewDecoder(r.Body).Decode(&items); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	codes := make([]string, len(items))
	for i := range items {
		codes[i] = items[i].check()
	}
	if err := n.save(r.Context(), items, codes); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	var b strings.Builder
	b.WriteString(`{"status":"Completed","result":[`)
	for i, code := range codes {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"status":{"code":%q}}`, code)
	}
	b.WriteString("]}")
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, b.String())
}

func (item *naiveItem) check() string {
	if item.ID == "" || len(item.ID) > 128 || item.EntityType == "" {
		return "invalid"
	}
	for i := range item.Claims {
		c := &item.Claims[i]
		end := c.Start.AddDate(0, 1, 0)
		if c.Period == "Daily" {
			end = c.Start.AddDate(0, 0, 1)
		}
		negative := strings.HasPrefix(string(c.Amount), "-")
		if c.Currency != "GBP" || !c.End.Equal(end.Add(-time.Millisecond)) || negative != (c.Count < 0) {
			return "invalid"
		}
	}
	return "saved"
}

func (n *naive) save(ctx context.Context, items []naiveItem, codes []string) error {
	return pgx.BeginFunc(ctx, n.pool, func(tx pgx.Tx) error {
		ids, err := insertNaive(ctx, tx, items, codes)
		if err != nil {
			return err
		}
		var rows [][]any
		for i := range items {
			id, saved := ids[items[i].ID]
			switch {
			case codes[i] != "saved":
				continue
			case !saved:
				codes[i] = "duplicate_of_saved"
				continue
			}
			for position := range items[i].Claims {
				c := &items[i].Claims[position]
				var amount pgtype.Numeric
				if err := amount.Scan(string(c.Amount)); err != nil {
					return err
				}
				rows = append(rows, []any{id, c.Start, c.End, c.Count, int16(position), amount, c.Period, c.Currency})
			}
		}
		_, err = tx.CopyFrom(ctx, pgx.Identifier{"revenue_claims"},
			[]string{"client_id", "start_date", "end_date", "transaction_count", "position", "total_amount", "time_period", "currency"}, pgx.CopyFromRows(rows))
		return err
	})
}

// insertNaive inserts the clients that are new, and returns their numbers.
func insertNaive(ctx context.Context, tx pgx.Tx, items []naiveItem, codes []string) (map[string]int64, error) {
	const query = `
		insert into partner_clients (partner_id, partner_client_id, entity_type, client_start_date, other_identifiers, fingerprint, batch_id, item)
		select 1, id, type, start, identifiers::jsonb, gen_random_uuid(), gen_random_uuid(), item
		  from unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::int[]) t (id, type, start, identifiers, item)
		 order by id
		on conflict do nothing
		returning id, partner_client_id`
	var (
		keys, types []string
		starts      []*time.Time
		identifiers []*string
		places      []int32
	)
	for i := range items {
		if codes[i] != "saved" {
			continue
		}
		keys, types, starts = append(keys, items[i].ID), append(types, items[i].EntityType), append(starts, items[i].StartDate)
		var text *string
		if len(items[i].Identifiers) > 0 {
			s := string(items[i].Identifiers)
			text = &s
		}
		identifiers, places = append(identifiers, text), append(places, int32(i))
	}
	rows, err := tx.Query(ctx, query, keys, types, starts, identifiers, places)
	if err != nil {
		return nil, err
	}
	ids := make(map[string]int64, len(keys))
	var id int64
	var key string
	_, err = pgx.ForEachRow(rows, []any{&id, &key}, func() error {
		ids[key] = id
		return nil
	})
	return ids, err
}
