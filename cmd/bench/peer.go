package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// peers are the peers of Intake that are measured.
var peers = []string{"grouped", "naive"}

// peerSchema is what a peer keeps: the columns of Intake that hold what was sent, and the
// same keys and indexes, but nothing about where a record came from.
const peerSchema = `
	create table clients (
		id                bigint generated always as identity (cache 64) primary key,
		client_start_date timestamptz,
		saved_at          timestamptz not null default now(),
		partner_id        integer not null,
		partner_client_id text collate "C" not null,
		entity_type       text not null,
		other_identifiers jsonb,
		unique (partner_id, partner_client_id)
	);
	create table claims (
		client_id         bigint not null,
		start_date        timestamptz not null,
		end_date          timestamptz not null,
		transaction_count bigint not null,
		total_amount      numeric(19,4) not null,
		time_period       text not null,
		currency          text not null
	);
	create index on claims using brin (client_id) with (pages_per_range = 16, autosummarize = on)`

// startPeer starts a peer, which is this program with the peer's name as first argument.
func (b *bench) startPeer(ctx context.Context, name string) (s *system, err error) {
	s = &system{name: name, client: "any", secret: "any", saved: make(map[string]bool)}
	if s.database, s.conn, err = b.database(ctx, name); err != nil {
		return nil, err
	}
	if _, err := s.conn.Exec(ctx, peerSchema); err != nil {
		return nil, err
	}
	process, err := b.runSelf(name, name, name, s.database)
	if err != nil {
		return nil, err
	}
	s.url, s.processes = process.url, []*child{process}
	return s, nil
}

// servePeer serves a peer on a free port, and prints its URL.
func servePeer(ctx context.Context, create http.HandlerFunc) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /oauth/token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"any","token_type":"Bearer","expires_in":3600}`)
	})
	mux.HandleFunc("POST /api/v1/clients", create)
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

// A peerItem is an item as it is sent, with what its check has found.
type peerItem struct {
	ID          string      `json:"partner_client_id"`
	StartDate   *string     `json:"client_start_date"`
	EntityType  string      `json:"entity_type"`
	Identifiers jsonText    `json:"other_identifiers"`
	Claims      []peerClaim `json:"revenue_claims"`

	started *time.Time
	code    string
}

type peerClaim struct {
	Start    string      `json:"start_date"`
	End      string      `json:"end_date"`
	Period   string      `json:"time_period"`
	Currency string      `json:"currency"`
	Amount   json.Number `json:"total_amount"`
	Count    int64       `json:"transaction_count"`

	start, end time.Time
	amount     pgtype.Numeric
}

// jsonText is JSON that is saved as it came.
type jsonText = json.RawMessage

// judge sets the code of each item: saved, unless it is invalid, a duplicate or in conflict
// within the request.
func judge(items []peerItem) {
	first := make(map[string]int, len(items))
	for i := range items {
		item := &items[i]
		item.code = "saved"
		if item.ID == "" {
			item.code = "invalid"
			continue
		}
		earlier, again := first[item.ID]
		switch {
		case !again:
			first[item.ID] = i
			if !item.check() {
				item.code = "invalid"
			}
		case items[earlier].code != "conflict_in_request" && item.equal(&items[earlier]):
			item.code = "duplicate_in_request"
		default:
			for j := range items[:i+1] {
				if items[j].ID == item.ID {
					items[j].code = "conflict_in_request"
				}
			}
		}
	}
}

// check reports whether an item is valid, and keeps what it has parsed.
func (item *peerItem) check() bool {
	if len(item.ID) > 128 || item.EntityType == "" || len(item.EntityType) > 64 || len(item.Claims) > 1_000 {
		return false
	}
	if item.StartDate != nil {
		at, err := time.Parse(time.RFC3339, *item.StartDate)
		if err != nil || time.Until(at) > 24*time.Hour {
			return false
		}
		item.started = &at
	}
	for i := range item.Claims {
		if !item.Claims[i].check() {
			return false
		}
	}
	return true
}

func (c *peerClaim) check() bool {
	var startErr, endErr error
	c.start, startErr = time.Parse(time.RFC3339, c.Start)
	c.end, endErr = time.Parse(time.RFC3339, c.End)
	if startErr != nil || endErr != nil || c.Currency != "GBP" {
		return false
	}
	var next time.Time
	switch c.Period {
	case "Monthly":
		next = c.start.AddDate(0, 1, 0)
		if c.start.Day() != 1 {
			return false
		}
	case "Daily":
		next = c.start.AddDate(0, 0, 1)
	default:
		return false
	}
	midnight := c.start.Hour()|c.start.Minute()|c.start.Second()|c.start.Nanosecond() == 0
	if !midnight || !c.end.Equal(next.Add(-time.Millisecond)) {
		return false
	}
	if strings.HasPrefix(string(c.Amount), "-") != (c.Count < 0) && c.Count != 0 {
		return false
	}
	var ok bool
	c.amount, ok = parseAmount(string(c.Amount))
	return ok
}

// parseAmount reads a number of at most 15 digits before the point and 4 behind. Numeric's
// own Scan takes a third of the check's time.
func parseAmount(text string) (pgtype.Numeric, bool) {
	whole, decimals, _ := strings.Cut(text, ".")
	if whole == "" || len(strings.TrimPrefix(whole, "-")) > 15 || len(decimals) > 4 {
		return pgtype.Numeric{}, false
	}
	n, err := strconv.ParseInt(whole+decimals+"0000"[len(decimals):], 10, 64)
	if err != nil { // it may have 19 digits
		var n pgtype.Numeric
		err := n.Scan(text)
		return n, err == nil
	}
	return pgtype.Numeric{Int: big.NewInt(n), Exp: -4, Valid: true}, true
}

func (item *peerItem) equal(other *peerItem) bool {
	sameStart := item.StartDate == other.StartDate
	if item.StartDate != nil && other.StartDate != nil {
		sameStart = *item.StartDate == *other.StartDate
	}
	return sameStart && item.EntityType == other.EntityType && string(item.Identifiers) == string(other.Identifiers) &&
		slices.EqualFunc(item.Claims, other.Claims, func(a, b peerClaim) bool {
			return a.Start == b.Start && a.End == b.End && a.Period == b.Period &&
				a.Currency == b.Currency && a.Amount == b.Amount && a.Count == b.Count
		})
}

// echoes reports whether the answer has the items, as Intake's has without this preference.
func echoes(r *http.Request) bool {
	return !strings.Contains(r.Header.Get("Prefer"), "return=minimal")
}

// answer appends the answer. data has each item as it was sent, if the answer has them.
func answer[T ~[]byte](b []byte, items []peerItem, data []T) []byte {
	b = append(b, `{"status":"Completed","result":[`...)
	for i := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		if data != nil {
			b = append(append(append(b, `"data":`...), data[i]...), ',')
		}
		b = append(append(append(b, `"status":{"code":"`...), items[i].code...), `"}}`...)
	}
	return append(b, "]}"...)
}

func writeAnswer(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the client may be gone
}

// insertClients inserts the clients that are new, and returns the id and key of each.
const insertClients = `
	insert into clients (partner_id, partner_client_id, entity_type, client_start_date, other_identifiers)
	select 1, * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::jsonb[])
	on conflict do nothing
	returning id, partner_client_id`

// clientColumns are the arguments of insertClients.
func clientColumns(items []*peerItem) []any {
	ids, types := make([]string, len(items)), make([]string, len(items))
	starts, identifiers := make([]*time.Time, len(items)), make([]jsonText, len(items))
	for i, item := range items {
		ids[i], types[i], starts[i], identifiers[i] = item.ID, item.EntityType, item.started, item.Identifiers
	}
	return []any{ids, types, starts, identifiers}
}

var claimColumns = []string{
	"client_id", "start_date", "end_date", "transaction_count", "total_amount", "time_period", "currency",
}

// claimRows are the rows of claims of clients for CopyFrom.
type claimRows struct {
	clients []*peerItem
	ids     []int64 // of the clients
	next    int     // claim of the first client
	row     [7]any
}

func (r *claimRows) Next() bool {
	for len(r.clients) > 0 && r.next >= len(r.clients[0].Claims) {
		r.clients, r.ids, r.next = r.clients[1:], r.ids[1:], 0
	}
	if len(r.clients) == 0 {
		return false
	}
	c := &r.clients[0].Claims[r.next]
	r.row = [7]any{r.ids[0], c.start, c.end, c.Count, c.amount, c.Period, c.Currency}
	r.next++
	return true
}

func (r *claimRows) Values() ([]any, error) { return r.row[:], nil }

func (r *claimRows) Err() error { return nil }

// claimsToCopy reads the ids and keys of the clients that were inserted, and returns their
// claims. The other items are duplicates of saved ones.
func claimsToCopy(rows pgx.Rows, items []*peerItem) (*claimRows, error) {
	inserted := make(map[string]int64, len(items))
	var id int64
	var key string
	_, err := pgx.ForEachRow(rows, []any{&id, &key}, func() error {
		inserted[key] = id
		return nil
	})
	if err != nil {
		return nil, err
	}
	claims := &claimRows{clients: make([]*peerItem, 0, len(items)), ids: make([]int64, 0, len(items))}
	for _, item := range items {
		if id, ok := inserted[item.ID]; ok {
			claims.clients, claims.ids = append(claims.clients, item), append(claims.ids, id)
		} else {
			item.code = "duplicate_of_saved"
		}
	}
	return claims, nil
}
