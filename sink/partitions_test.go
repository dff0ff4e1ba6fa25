package sink_test

import (
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"intake"
	"intake/sink"
)

// Each day has its partition, with what came before it was made; and is gone when
// it need not be kept any more.
func TestStore_TidyStatus(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	ctx, now := t.Context(), time.Now().UTC()
	early := chunk(client(0, "early", 1))
	save(t, store, early)
	const inDefault = "select count(*) from only batch_status_default"
	if n := count(t, conn, inDefault); n != 1 {
		t.Fatalf("%d rows lie in the default partition before there is another one", n)
	}
	var tidying sync.WaitGroup
	for range 4 {
		tidying.Go(func() {
			if err := store.TidyStatus(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	tidying.Wait()
	save(t, store, chunk(client(0, "late", 1)), early) // early is answered as it was
	today := "batch_status_" + now.Format("20060102")
	if inDay, other := count(t, conn, "select count(*) from "+today), count(t, conn, inDefault); inDay != 2 ||
		other != 0 {
		t.Errorf("%d rows in %s and %d in the default partition", inDay, today, other)
	}
	if n := count(t, conn, "select count(*) from saved_clients"); n != 2 {
		t.Errorf("%d clients are saved", n)
	}
	const days = "select count(*) from pg_inherits where inhparent = 'batch_status'::regclass"
	if n := count(t, conn, days); n != 9 {
		t.Errorf("%d partitions", n)
	}

	const aged = "update batch_status set finished_at = finished_at - interval '30 days'"
	for _, step := range []struct {
		what string
		age  string
		days int
		rows int
	}{
		{"young, by a clock that is ahead", "", 31, 2},
		{"of this day", aged, 30, 2},
		{"old", "", 31, 0},
	} {
		if step.age != "" {
			if _, err := conn.Exec(ctx, step.age); err != nil {
				t.Fatal(err)
			}
		}
		if err := sink.TidyStatusAt(store, ctx, dayOf(now).AddDate(0, 0, step.days)); err != nil {
			t.Fatal(err)
		}
		if n := count(t, conn, "select count(*) from batch_status"); n != step.rows {
			t.Errorf("%s: %d rows, want %d", step.what, n, step.rows)
		}
	}
	finished, err := store.Finished(ctx, 1, early.Batch)
	if err != nil || len(finished) != 0 {
		t.Errorf("%v %v", finished, err)
	}
}

func dayOf(now time.Time) time.Time { return now.Truncate(24 * time.Hour) }

// What is old is old by the clock of Postgres, by when it was finished or reserved:
// neither a worker's clock nor a front's, which names the batches, takes anything.
func TestStore_TidyStatus_WrongClocks(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	ctx, now := t.Context(), time.Now().UTC()
	behind := chunk(client(0, "of a front whose clock is behind", 1))
	binary.BigEndian.PutUint64(behind.Batch[:], uint64(now.AddDate(0, 0, -40).UnixMilli())<<16|0x7000)
	// Its day has a partition, as on a day of which nothing was dropped yet.
	if err := sink.MakePartition(store, ctx, dayOf(now).AddDate(0, 0, -40)); err != nil {
		t.Fatal(err)
	}
	unnamed := chunk(client(0, "in the default partition", 1))
	save(t, store, behind, unnamed)
	reserve := func() intake.ReservationState {
		t.Helper()
		reservation, err := store.Reserve(ctx, 1, "key", [32]byte{}, uuid.Must(uuid.NewV7()), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		return reservation.State
	}
	reserve()
	tidy := func(days int) {
		t.Helper()
		if err := sink.TidyStatusAt(store, ctx, dayOf(now).AddDate(0, 0, days)); err != nil {
			t.Fatal(err)
		}
	}
	for _, days := range []int{0, 31} {
		tidy(days)
		if n := count(t, conn, "select count(*) from batch_status"); n != 2 {
			t.Errorf("%d rows, want 2, by a clock that is %d days ahead", n, days)
		}
		if state := reserve(); state != intake.ReservationRunning {
			t.Errorf("the key is %v by a clock that is %d days ahead", state, days)
		}
	}
	for _, sql := range []string{
		"update batch_status set finished_at = finished_at - interval '31 days'",
		"update idempotency_keys set created_at = created_at - interval '31 days'",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	tidy(0)
	if n := count(t, conn, "select count(*) from batch_status"); n != 1 { // unnamed is of a day that is young
		t.Errorf("%d rows, want 1, when they are old", n)
	}
	if state := reserve(); state != intake.ReservationFresh {
		t.Errorf("the key is %v when it is old", state)
	}
}

// What is kept of a chunk can be read back by its partner, and by nobody else.
func TestStore_Finished(t *testing.T) {
	t.Parallel()
	store, _ := open(t)
	save(t, store, chunk(client(0, "taken", 1)))
	c := chunk(client(1, "a", 1), client(3, "taken", 2))
	c.Len, c.First, c.Number, c.Chunks = 4, 0, 1, 3
	c.Rejected, c.RejectedKeys = invalidAt(0, 2), []string{"rejected é", ""}
	save(t, store, c)
	finished, err := store.Finished(t.Context(), 1, c.Batch)
	if err != nil || len(finished) != 1 {
		t.Fatal(finished, err)
	}
	f := finished[0]
	if f.Chunk != 1 || f.Chunks != 3 || f.Len != 4 || len(f.NotSaved) != 3 {
		t.Errorf("%+v", f)
	}
	for i, want := range []string{"rejected é", "a", "", "taken"} {
		if f.Keys[i] != want {
			t.Errorf("key %d is %q, want %q", i, f.Keys[i], want)
		}
	}
	if others, err := store.Finished(t.Context(), 2, c.Batch); err != nil || len(others) != 0 {
		t.Errorf("another partner's: %v %v", others, err)
	}
	withdrawn := chunk(client(0, "withdrawn", 1))
	if ok, err := store.Withdraw(t.Context(), []*intake.Chunk{withdrawn}, nil); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if finished, err := store.Finished(t.Context(), 1, withdrawn.Batch); err != nil || len(finished) != 0 {
		t.Errorf("withdrawn: %v %v", finished, err)
	}
}

func invalidAt(items ...int) (verdicts []intake.ItemVerdict) {
	for _, item := range items {
		verdicts = append(verdicts, intake.ItemVerdict{Item: item, Verdict: intake.Invalid("x")})
	}
	return verdicts
}
