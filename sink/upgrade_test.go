package sink_test

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"intake"
	"intake/internal/local/localtest"
	"intake/sink"
)

// withoutClientClaims is the last version of the schema without client_claims.
const withoutClientClaims = 10

// saveAsBefore saves a chunk with the statements of a worker that knows no version of
// the schema after withoutClientClaims, and client ids from first on.
func saveAsBefore(ctx context.Context, conn *pgx.Conn, first int64, c *intake.Chunk) error {
	var clients, claims [][]any
	for i := range c.Clients {
		client := &c.Clients[i]
		id := first + int64(i)
		clients = append(clients, []any{
			id, nil, uuid.UUID(client.Fingerprint), c.Batch, int32(client.Item), c.Partner, client.ID,
			client.EntityType, nil,
		})
		for n, claim := range client.Claims {
			amount := pgtype.Numeric{Int: new(big.Int).SetUint64(claim.TotalAmount.Abs), Exp: -4, Valid: true}
			if claim.TotalAmount.Neg {
				amount.Int.Neg(amount.Int)
			}
			claims = append(claims, []any{
				id, time.UnixMicro(int64(claim.Start)), time.UnixMicro(int64(claim.End)), claim.TransactionCount,
				int16(n), amount, claim.Period.String(), c.Currency,
			})
		}
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, copy := range []struct {
			table   string
			columns string
			rows    [][]any
		}{
			{"partner_clients", "id client_start_date fingerprint batch_id item partner_id partner_client_id entity_type other_identifiers", clients},
			{"revenue_claims", "client_id start_date end_date transaction_count position total_amount time_period currency", claims},
			{"batch_status", "batch_id chunk chunks partner_id first_item items completed withdrawn not_saved keys",
				[][]any{
					{c.Batch, int32(c.Number), int32(c.Chunks), c.Partner, int32(c.First), int32(c.Len), int32(c.Len),
						false, nil, nil},
				}},
		} {
			if _, err := tx.CopyFrom(ctx, pgx.Identifier{copy.table}, strings.Fields(copy.columns),
				pgx.CopyFromRows(copy.rows)); err != nil {
				return fmt.Errorf("%s: %w", copy.table, err)
			}
		}
		return nil
	})
}

// manyClaims are claims of all kinds.
func manyClaims() []intake.RevenueClaim {
	at := func(text string) intake.Timestamp {
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			panic(err)
		}
		return intake.Timestamp(t.UnixMicro())
	}
	claims := []intake.RevenueClaim{january(30000_2500, 150), january(-1, -1), january(0, 0),
		january(1, 1_000_000_000_000)}
	claims[3].TotalAmount.Abs = 9_999_999_999_999_999_999
	for _, c := range [][2]string{
		{"2024-02-01T00:00:00Z", "2024-02-29T23:59:59.999Z"},
		{"2025-02-01T00:00:00Z", "2025-02-28T23:59:59.999Z"},
		{"1900-02-01T00:00:00Z", "1900-02-28T23:59:59.999Z"},
		{"2000-02-01T00:00:00Z", "2000-02-29T23:59:59.999Z"},
		{"1969-12-01T00:00:00Z", "1969-12-31T23:59:59.999Z"},
		{"2025-04-01T00:00:00Z", "2025-04-30T23:59:59.999Z"},
		{"0001-01-01T00:00:00Z", "0001-01-31T23:59:59.999Z"},
		{"9999-12-01T00:00:00Z", "9999-12-31T23:59:59.999Z"},
	} {
		claims = append(claims, intake.RevenueClaim{Start: at(c[0]), End: at(c[1]), Period: intake.Monthly,
			TransactionCount: 1})
	}
	for _, c := range [][2]string{
		{"2024-02-29T00:00:00Z", "2024-02-29T23:59:59.999Z"},
		{"1969-12-31T00:00:00Z", "1969-12-31T23:59:59.999Z"},
		{"2025-10-26T00:00:00Z", "2025-10-26T23:59:59.999Z"},
	} {
		claims = append(claims, intake.RevenueClaim{Start: at(c[0]), End: at(c[1]), Period: intake.Daily,
			TotalAmount: intake.Amount{Abs: 5}})
	}
	return claims
}

// inMicroseconds returns the claims with dates that are sent to the microsecond.
func inMicroseconds(claims []intake.RevenueClaim) []intake.RevenueClaim {
	claims[1].Start += 1
	claims[2].End += 999
	claims[len(claims)-1].Start += 999
	return claims
}

// claimRows returns what the view revenue_claims shows of each client.
func claimRows(t *testing.T, conn *pgx.Conn) map[string][]string {
	t.Helper()
	const query = `
		select c.partner_client_id, concat_ws(' ', r.start_date, r.end_date, r.transaction_count, r.position, r.total_amount, r.time_period, r.currency)
		  from partner_clients c
		  join revenue_claims r on r.client_id = c.id
		 order by 1, r.position`
	rows, err := conn.Query(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	shown := make(map[string][]string)
	var id, claim string
	if _, err := pgx.ForEachRow(rows, []any{&id, &claim}, func() error {
		shown[id] = append(shown[id], claim)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return shown
}

// columnsOf returns the names and types of a relation's columns.
func columnsOf(t *testing.T, conn *pgx.Conn, relation string) (columns string) {
	t.Helper()
	const query = `
		select string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' order by attnum)
		  from pg_attribute where attrelid = $1::text::regclass and attnum > 0`
	if err := conn.QueryRow(t.Context(), query, relation).Scan(&columns); err != nil {
		t.Fatal(err)
	}
	return columns
}

// While the schema is migrated, and until all workers are replaced, workers of the
// version before save beside new ones. What either saves looks the same, and neither
// saves again what the other has saved.
func TestStore_SaveBesideWorkersOfBefore(t *testing.T) {
	t.Parallel()
	ctx, url := t.Context(), localtest.Postgres(t)
	if err := sink.MigrateTo(ctx, url, withoutClientClaims); err != nil {
		t.Fatal(err)
	}
	before, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close(context.WithoutCancel(ctx))
	for _, sql := range []string{"set timezone to 'Australia/Eucla'",
		"insert into partners (name, currency, secret_hash) values ('acme', 'GBP', '')"} {
		if _, err := before.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	newChunk := func(name string) *intake.Chunk {
		c := chunk(client(0, name, 1, manyClaims()...), client(1, name+" to the microsecond", 2,
			inMicroseconds(manyClaims())...), client(2, name+" without", 3))
		c.Currency = "EUR"
		return c
	}
	first, second, third := newChunk("first"), newChunk("second"), newChunk("third")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(saveAsBefore(ctx, before, 1, first))
	view, clients := columnsOf(t, before, "revenue_claims"), columnsOf(t, before, "saved_clients")
	shown := claimRows(t, before) // statements that are prepared stay in use

	if _, _, err := sink.Migrate(ctx, url); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(view, columnsOf(t, before, "revenue_claims")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(clients, columnsOf(t, before, "saved_clients")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(shown, claimRows(t, before)); diff != "" {
		t.Errorf("after the migration:\n%s", diff)
	}
	store, err := sink.Open(ctx, sink.Options{URL: url, NeedSchema: true})
	must(err)
	t.Cleanup(store.Close)
	must(saveAsBefore(ctx, before, 11, second))
	save(t, store, third)
	must(saveAsBefore(ctx, before, 21, chunk(client(0, "fourth", 1))))

	shown = claimRows(t, before)
	for _, name := range []string{"second", "third"} {
		for _, kind := range []string{"", " to the microsecond"} {
			if diff := cmp.Diff(shown["first"+kind], shown[name+kind]); diff != "" ||
				len(shown[name+kind]) != len(manyClaims()) {
				t.Errorf("%s%s:\n%s", name, kind, diff)
			}
		}
	}
	const sums = "select claims, total_amount::text from saved_clients where partner_client_id = $1"
	for _, kind := range []string{"", " to the microsecond", " without"} {
		var want, got string
		for _, name := range []string{"first", "second", "third"} {
			var claims int
			var total string
			must(before.QueryRow(ctx, sums, name+kind).Scan(&claims, &total))
			if got = fmt.Sprint(claims, " ", total); name == "first" {
				want = got
			}
			if got != want {
				t.Errorf("%s%s: %s, want %s", name, kind, got, want)
			}
			if r, n, ok, err := store.Record(ctx, 1, name+kind); err != nil || !ok || n != claims {
				t.Errorf("%s%s: %+v %d %v %v", name, kind, r, n, ok, err)
			}
		}
	}

	// Redelivered to the other one: by its status, or by where its rows came from.
	rows := count(t, before, "select count(*) from revenue_claims")
	for range 2 {
		for _, outcome := range save(t, store, first, second).Outcomes {
			wantNotSaved(t, outcome)
		}
		var taken *pgconn.PgError
		if err := saveAsBefore(ctx, before, 31, third); !errors.As(err, &taken) || taken.Code != "23505" {
			t.Errorf("a worker of before saves again: %v", err)
		}
		_, err := before.Exec(ctx, "delete from batch_status")
		must(err)
	}
	if n := count(t, before, "select count(*) from revenue_claims"); n != rows {
		t.Errorf("%d claims, want %d", n, rows)
	}

	// Back again.
	want := claimRows(t, before)
	must(sink.MigrateTo(ctx, url, withoutClientClaims))
	if diff := cmp.Diff(want, claimRows(t, before)); diff != "" {
		t.Errorf("after the migration down:\n%s", diff)
	}
}

// The migration does not wait for a long dump, with all saves behind it.
func TestMigrate_Busy(t *testing.T) {
	t.Parallel()
	ctx, url := t.Context(), localtest.Postgres(t)
	if err := sink.MigrateTo(ctx, url, withoutClientClaims); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	dump, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dump.Exec(ctx, "select from revenue_claims"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := sink.Migrate(ctx, url); err == nil || !strings.Contains(err.Error(), "run intake migrate again") {
		t.Errorf("while the claims are dumped: %v", err)
	}
	if err := dump.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if _, applied, err := sink.Migrate(ctx, url); err != nil || applied != 1 {
		t.Errorf("after the dump: %d migrations, %v", applied, err)
	}
}
