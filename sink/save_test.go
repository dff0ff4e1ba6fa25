package sink_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"intake"
	"intake/internal/local/localtest"
	"intake/sink"
)

func TestMain(m *testing.M) { localtest.Main(m) }

// open returns a store on a database of its own, with a partner, and a plain
// connection to look at what is in there.
func open(t *testing.T) (*sink.Store, *pgx.Conn) {
	t.Helper()
	ctx, url := t.Context(), localtest.Postgres(t)
	if _, _, err := sink.Migrate(ctx, url); err != nil {
		t.Fatal(err)
	}
	store, err := sink.Open(ctx, sink.Options{URL: url, MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	if _, err := store.AddPartner(ctx, intake.Partner{Name: "acme", Currency: "GBP"}, [32]byte{}); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	if _, err := conn.Exec(ctx, "set timezone to 'UTC'"); err != nil {
		t.Fatal(err)
	}
	return store, conn
}

// january is a month's claim with an amount in ten-thousandths.
func january(amount int64, count int64) intake.RevenueClaim {
	start := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	sum := intake.Amount{Neg: amount < 0, Abs: uint64(max(amount, -amount))}
	return intake.RevenueClaim{
		Start: intake.Timestamp(start.UnixMicro()), End: intake.Timestamp(start.AddDate(0, 1, 0).UnixMicro() - 1000),
		Period: intake.Monthly, TotalAmount: sum, TransactionCount: count,
	}
}

// client is an item whose data is named by data.
func client(item int, id string, data byte, claims ...intake.RevenueClaim) intake.PartnerClient {
	return intake.PartnerClient{
		Item: item, ID: id, EntityType: "SoleTrader", StartDate: intake.NoTimestamp, Claims: claims,
		Fingerprint: intake.Fingerprint{data},
	}
}

func chunk(clients ...intake.PartnerClient) *intake.Chunk {
	return &intake.Chunk{Batch: uuid.Must(uuid.NewV7()), Chunks: 1, Partner: 1, Currency: "GBP", Len: len(clients),
		Clients: clients}
}

func save(t *testing.T, store *sink.Store, chunks ...*intake.Chunk) intake.Saved {
	t.Helper()
	saved, err := store.Save(t.Context(), chunks)
	if err != nil {
		t.Fatal(err)
	}
	if len(saved.Outcomes) != len(chunks) {
		t.Fatalf("%d outcomes for %d chunks", len(saved.Outcomes), len(chunks))
	}
	return saved
}

func count(t *testing.T, conn *pgx.Conn, query string, args ...any) (n int) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func wantNotSaved(t *testing.T, outcome intake.Outcome, want ...intake.ItemVerdict) {
	t.Helper()
	if diff := cmp.Diff(want, outcome.NotSaved, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("not saved (-want +got):\n%s", diff)
	}
}

// What is saved can be read back exactly, with where it came from.
func TestStore_Save(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	one := client(0, "one", 1, january(30000_2500, 150), january(-1, -1))
	one.StartDate = intake.Timestamp(time.Date(2024, 4, 23, 13, 44, 3, 585_123_000, time.UTC).UnixMicro())
	one.OtherIdentifiers = []byte(`[{"key": "MerchantId", "values": ["1"]}]`)
	c := chunk(one, client(1, "two", 2))
	c.First, c.Len, c.Number, c.Chunks = 0, 3, 0, 2
	c.Rejected = []intake.ItemVerdict{{Item: 2, Verdict: intake.Invalid("entity_type: required")}}
	saved := save(t, store, c)

	wantNotSaved(t, saved.Outcomes[0], c.Rejected...)
	if saved.Timeline == "" || len(saved.Keys) != 2 ||
		saved.Keys[0] != (intake.SavedKey{Partner: 1, ID: "one", Fingerprint: one.Fingerprint}) {
		t.Errorf("timeline %q, keys %v", saved.Timeline, saved.Keys)
	}
	var got string
	err := conn.QueryRow(t.Context(), `
		select concat_ws(' ', partner, partner_client_id, entity_type, claims, total_amount, batch_id, item)
		  from saved_clients where partner = 'acme' and partner_client_id = 'one'`).Scan(&got)
	if want := fmt.Sprintf("acme one SoleTrader 2 30000.2499 %s 0", c.Batch); err != nil || got != want {
		t.Errorf("saved_clients: %q %v, want %q", got, err, want)
	}
	err = conn.QueryRow(t.Context(), `
		select concat_ws(' ', c.client_start_date, c.other_identifiers, r.start_date, r.end_date, r.time_period, r.currency, r.total_amount, r.transaction_count, r.position)
		  from partner_clients c join revenue_claims r on r.client_id = c.id where partner_client_id = 'one' and position = 0`).Scan(&got)
	want := `2024-04-23 13:44:03.585123+00 [{"key": "MerchantId", "values": ["1"]}] 2025-01-01 00:00:00+00 2025-01-31 23:59:59.999+00 Monthly GBP 30000.2500 150 0`
	if err != nil || got != want {
		t.Errorf("got %q %v, want %q", got, err, want)
	}
	if n := count(t, conn, "select completed from batch_status where batch_id = $1 and chunk = 0 and chunks = 2 and items = 3", c.Batch); n != 2 {
		t.Errorf("status says %d completed", n)
	}
}

// A chunk that is delivered again, as after a worker that died between its commit and its
// acknowledgement, gets the outcome that it got the first time. Nothing is saved twice.
func TestStore_SaveRedelivered(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	save(t, store, chunk(client(0, "taken", 9)))
	c := chunk(client(0, "a", 1, january(1, 1)), client(1, "taken", 1))
	first := save(t, store, c)
	wantNotSaved(t, first.Outcomes[0], intake.ItemVerdict{Item: 1, Verdict: intake.DuplicateOfSaved(false)})
	again := save(t, store, c, c)
	for _, outcome := range again.Outcomes {
		if diff := cmp.Diff(first.Outcomes[0], outcome); diff != "" {
			t.Errorf("the second answer differs:\n%s", diff)
		}
	}
	if n := count(t, conn, "select count(*) from revenue_claims"); n != 1 {
		t.Errorf("%d claims", n)
	}
}

// When the rows are there but their status isn't, as after a restore of parts,
// a chunk finds its own rows by where they came from.
func TestStore_SaveFindsItsOwnRows(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	c := chunk(client(0, "a", 1, january(1, 1)))
	save(t, store, c)
	if _, err := conn.Exec(t.Context(), "delete from batch_status"); err != nil {
		t.Fatal(err)
	}
	wantNotSaved(t, save(t, store, c).Outcomes[0])
	if n := count(t, conn, "select count(*) from revenue_claims"); n != 1 {
		t.Errorf("%d claims", n)
	}
}

// The same chunk twice in one gathering, as after a redelivery that came early.
func TestStore_SaveTwiceInOneGathering(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	c := chunk(client(0, "a", 1, january(1, 1)))
	again := *c
	for _, outcome := range save(t, store, c, &again).Outcomes {
		wantNotSaved(t, outcome)
	}
	if n := count(t, conn, "select count(*) from revenue_claims"); n != 1 {
		t.Errorf("%d claims", n)
	}
}

// Duplicates of a saved record say whether their data is the same; in one
// gathering the first chunk wins.
func TestStore_SaveDuplicates(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	winner := chunk(client(0, "a", 1, january(5, 1)))
	saved := save(t, store, winner, chunk(client(0, "a", 1, january(5, 1))), chunk(client(0, "a", 2, january(6, 1))))
	wantNotSaved(t, saved.Outcomes[0])
	wantNotSaved(t, saved.Outcomes[1], intake.ItemVerdict{Verdict: intake.DuplicateOfSaved(true)})
	wantNotSaved(t, saved.Outcomes[2], intake.ItemVerdict{Verdict: intake.DuplicateOfSaved(false)})
	for _, key := range saved.Keys {
		if key.Fingerprint != winner.Clients[0].Fingerprint {
			t.Errorf("key %v is not that of the record", key)
		}
	}
	other := chunk(client(0, "a", 1))
	if _, err := store.AddPartner(t.Context(), intake.Partner{Name: "other", Currency: "GBP"}, [32]byte{}); err != nil {
		t.Fatal(err)
	}
	other.Partner = 2
	wantNotSaved(t, save(t, store, other).Outcomes[0])
	if n := count(t, conn, "select count(*) from partner_clients"); n != 2 {
		t.Errorf("%d clients", n)
	}
}

// An item that Postgres refuses is the only one that isn't saved, whether the
// row, its claims, a check at the end of the transaction or a trigger is in the way.
func TestStore_SaveRefused(t *testing.T) {
	t.Parallel()
	const refuse = "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no_thirteen'; end $$; "
	for name, obstacle := range map[string]string{
		"client": "alter table partner_clients add constraint no_thirteen check (partner_client_id <> '13')",
		"claim":  "alter table client_claims add constraint no_thirteen check (0.0013 <> all (total_amounts))",
		"trigger": refuse + `create trigger refuse before insert on partner_clients
			for each row when (new.partner_client_id = '13') execute function refuse()`,
		"deferred trigger": refuse + `create constraint trigger refuse after insert on client_claims deferrable initially deferred
			for each row when (0.0013 = any (new.total_amounts)) execute function refuse()`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, conn := open(t)
			if _, err := conn.Exec(t.Context(), obstacle); err != nil {
				t.Fatal(err)
			}
			var chunks []*intake.Chunk
			for batch := range 4 {
				c := chunk()
				for item := range 10 {
					n := 10*batch + item
					c.Clients = append(c.Clients, client(item, fmt.Sprint(n), 1, january(0, 0), january(int64(n), 1)))
				}
				c.Len = 10
				chunks = append(chunks, c)
			}
			saved := save(t, store, chunks...)
			for i, outcome := range saved.Outcomes {
				if i != 1 {
					wantNotSaved(t, outcome)
					continue
				}
				if len(outcome.NotSaved) != 1 || outcome.NotSaved[0].Item != 3 ||
					outcome.NotSaved[0].Code != intake.CodeRefused ||
					!strings.Contains(outcome.NotSaved[0].Text, "no_thirteen") {
					t.Errorf("not saved: %v", outcome.NotSaved)
				}
			}
			if n := count(t, conn, "select count(*) from partner_clients"); n != 39 {
				t.Errorf("%d clients", n)
			}
			if n := count(t, conn, "select count(*) from revenue_claims"); n != 78 {
				t.Errorf("%d claims", n)
			}
		})
	}
}

// Postgres may answer while it is still written to, with more than fits into the buffers
// of the connection, and may refuse the first of many rows.
func TestStore_SaveAnsweredEarly(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	for _, sql := range []string{
		"create function tell() returns trigger language plpgsql as $$ begin raise notice '%', repeat('x', 2000); return new; end $$",
		"create trigger tell before insert on partner_clients for each row execute function tell()",
		"alter table partner_clients add constraint no_zero check (partner_client_id <> '0')",
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	const items = 5_000
	c := chunk()
	for item := range items {
		c.Clients = append(c.Clients, client(item, fmt.Sprint(item), 1, january(1, 1)))
		c.Clients[item].OtherIdentifiers = []byte(`"` + strings.Repeat("y", 500) + `"`)
	}
	c.Len = items
	outcome := save(t, store, c).Outcomes[0]
	if len(outcome.NotSaved) != 1 || outcome.NotSaved[0].Item != 0 || outcome.NotSaved[0].Code != intake.CodeRefused {
		t.Errorf("not saved: %v", outcome.NotSaved)
	}
	if n := count(t, conn, "select count(*) from revenue_claims"); n != items-1 {
		t.Errorf("%d claims", n)
	}
}

// Many concurrent transactions over the same new keys: none waits for one that waits
// for it, each key is saved once, and exactly one chunk is told so.
func TestStore_SaveConcurrently(t *testing.T) {
	t.Parallel()
	const savers, rounds, keys = 8, 20, 200
	store, conn := open(t)
	random := rand.New(rand.NewPCG(1, 1))
	completed := make(map[string]int)
	for round := range rounds {
		gatherings := make([][]*intake.Chunk, savers)
		for n := range gatherings {
			for range 3 {
				c := chunk()
				for item, key := range random.Perm(keys)[:keys/2] {
					c.Clients = append(c.Clients, client(item, fmt.Sprint(round, key), byte(random.IntN(2)),
						january(int64(key), 1)))
				}
				c.Len = len(c.Clients)
				gatherings[n] = append(gatherings[n], c)
			}
		}
		all := make([]intake.Saved, savers)
		var wg sync.WaitGroup
		for n, chunks := range gatherings {
			wg.Go(func() {
				var err error
				if all[n], err = store.Save(t.Context(), chunks); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for n, chunks := range gatherings {
			for i, outcome := range all[n].Outcomes {
				rejected := make(map[int]bool)
				for _, v := range outcome.NotSaved {
					rejected[v.Item] = true
				}
				for _, c := range chunks[i].Clients {
					if !rejected[c.Item] {
						completed[c.ID]++
					}
				}
			}
		}
	}
	for key, n := range completed {
		if n != 1 {
			t.Errorf("key %s was Completed %d times", key, n)
		}
	}
	if n := count(t, conn, "select count(*) from partner_clients"); n != len(completed) {
		t.Errorf("%d clients, %d Completed", n, len(completed))
	}
	if n := count(t, conn, "select count(*) from revenue_claims"); n != len(completed) {
		t.Errorf("%d claims of %d clients", n, len(completed))
	}
	store.Close() // sessions report deadlocks when they end, if not before
	if n := count(t, conn, "select deadlocks from pg_stat_database where datname = current_database()"); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
}

// A batch that was withdrawn is not saved any more, and one that was finished
// can't be withdrawn.
func TestStore_Withdraw(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	withdrawn := chunk(client(0, "a", 1))
	if ok, err := store.Withdraw(t.Context(), []*intake.Chunk{withdrawn}, nil); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if outcome := save(t, store, withdrawn).Outcomes[0]; !outcome.Withdrawn {
		t.Errorf("outcome %+v", outcome)
	}
	if n := count(t, conn, "select count(*) from partner_clients"); n != 0 {
		t.Errorf("%d clients", n)
	}
	finished, late := chunk(client(0, "b", 1)), chunk(client(1, "c", 1))
	late.Batch, late.Number = finished.Batch, 1
	save(t, store, finished)
	if ok, err := store.Withdraw(t.Context(), []*intake.Chunk{finished, late}, nil); ok || err != nil {
		t.Fatal(ok, err)
	}
	outcomes, err := store.Outcomes(t.Context(), []uuid.UUID{finished.Batch, withdrawn.Batch})
	if err != nil || len(outcomes) != 2 {
		t.Fatal(outcomes, err)
	}
	wantNotSaved(t, save(t, store, late).Outcomes[0])
}

// A batch with an Idempotency-Key is its holder's: one whom another has taken
// over can neither withdraw it nor release the key.
func TestStore_WithdrawReserved(t *testing.T) {
	t.Parallel()
	store, _ := open(t)
	first, second := uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7())
	c := chunk(client(0, "a", 1))
	for _, request := range []struct {
		owner uuid.UUID
		want  intake.ReservationState
	}{{first, intake.ReservationFresh}, {second, intake.ReservationTakenOver}} {
		got, err := store.Reserve(t.Context(), c.Partner, "k", [32]byte{1}, request.owner, -time.Second)
		if err != nil || got.State != request.want || got.Batch != first {
			t.Fatalf("%+v %v", got, err)
		}
	}
	c.Batch = first
	if ok, err := store.Withdraw(t.Context(), []*intake.Chunk{c}, &intake.Holder{Key: "k", Owner: first}); ok ||
		!errors.Is(err, intake.ErrTakenOver) {
		t.Errorf("the first one withdraws: %v %v", ok, err)
	}
	if err := store.Release(t.Context(), c.Partner, intake.Holder{Key: "k", Owner: first}); !errors.Is(err,
		intake.ErrTakenOver) {
		t.Errorf("the first one gives up the key: %v", err)
	}
	if err := store.Renew(t.Context(), c.Partner, intake.Holder{Key: "k", Owner: first}, time.Hour); err != nil {
		t.Error(err)
	}
	if got, err := store.Reserve(t.Context(), c.Partner, "k", [32]byte{1}, second, time.Hour); err != nil ||
		got.State != intake.ReservationTakenOver {
		t.Errorf("the first one has renewed the second one's reservation: %+v %v", got, err)
	}
	if err := store.Renew(t.Context(), c.Partner, intake.Holder{Key: "k", Owner: second}, time.Hour); err != nil {
		t.Error(err)
	}
	if got, err := store.Reserve(t.Context(), c.Partner, "k", [32]byte{1}, uuid.Must(uuid.NewV7()),
		time.Hour); err != nil || got.State != intake.ReservationRunning {
		t.Errorf("%+v %v", got, err)
	}
	if ok, err := store.Withdraw(t.Context(), []*intake.Chunk{c}, &intake.Holder{Key: "k", Owner: second}); !ok ||
		err != nil {
		t.Errorf("the second one withdraws: %v %v", ok, err)
	}
	if err := store.Release(t.Context(), c.Partner, intake.Holder{Key: "k", Owner: second}); err != nil {
		t.Error(err)
	}
}

// A connection that breaks in the middle fails nobody: nothing is saved, and the
// same chunks can be given again.
func TestStore_SaveServerError(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	c := chunk(client(0, "a", 1, january(1, 1)))
	_, err := conn.Exec(t.Context(), `
		create function die() returns trigger language plpgsql as
			$$ begin perform pg_terminate_backend(pg_backend_pid()); return new; end $$;
		create trigger die before insert on partner_clients for each row execute function die()`)
	if err != nil {
		t.Fatal(err)
	}
	if saved, err := store.Save(t.Context(), []*intake.Chunk{c}); err == nil {
		t.Fatalf("saved %v", saved)
	}
	if _, err := conn.Exec(t.Context(), "drop trigger die on partner_clients"); err != nil {
		t.Fatal(err)
	}
	wantNotSaved(t, save(t, store, c).Outcomes[0])
}

// Amounts arrive in Postgres as the very decimals that they are.
func TestStore_SaveAmounts(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	var n int
	rapid.Check(t, func(rt *rapid.T) {
		abs := rapid.OneOf(rapid.Uint64Range(0, 1e19-1), rapid.Uint64Range(0, 20_000),
			rapid.SampledFrom([]uint64{1e4, 1e8, 1e12, 1e16, 1e19 - 1, 12340000})).Draw(rt, "abs")
		claim := january(0, 0)
		claim.TotalAmount = intake.Amount{Abs: abs, Neg: abs > 0 && rapid.Bool().Draw(rt, "negative")}
		id := fmt.Sprint(n)
		n++
		save(t, store, chunk(client(0, id, 1, claim)))
		var got string
		err := conn.QueryRow(t.Context(), `
			select trim_scale(total_amount)::text from revenue_claims join partner_clients c on c.id = client_id where partner_client_id = $1`, id).Scan(&got)
		if err != nil || got != claim.TotalAmount.String() {
			rt.Fatalf("%s was saved as %s %v", claim.TotalAmount, got, err)
		}
	})
}

// Should others have been given the same ids, new ones are taken, and no item is
// refused for it.
func TestStore_SaveIDsTaken(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	save(t, store, chunk(client(0, "a", 1, january(1, 1))))
	if _, err := conn.Exec(t.Context(), "select setval('partner_client_blocks', 1, false)"); err != nil {
		t.Fatal(err)
	}
	again, err := sink.Open(t.Context(), sink.Options{URL: conn.Config().ConnString()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Close)
	for _, id := range []string{"b", "a", "c"} { // copied; found out; copied or found out
		saved := save(t, again, chunk(client(0, id, 1, january(1, 1)), client(1, id+" more", 1, january(1, 1))))
		for _, v := range saved.Outcomes[0].NotSaved {
			if v.Code != intake.CodeDuplicateOfSaved {
				t.Errorf("%s: %v", id, v)
			}
		}
	}
	if n := count(t, conn, "select count(*) from saved_clients where claims = 1"); n != 6 {
		t.Errorf("%d clients are saved with their claim, want 6", n)
	}
}
