package sink_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"intake/sink"
)

// keys returns the ids of the keys, with what each does now.
func keys(t *testing.T, store *sink.Store) (ids []string, states string) {
	t.Helper()
	all, now, err := store.SigningKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		ids = append(ids, all[i].ID)
		switch k := &all[i]; {
		case k.Signs(now):
			states += "s"
		case now.Before(k.SignsFrom):
			states += "w" // waits
		default:
			states += "v" // verifies
		}
	}
	return ids, states
}

// shiftKeys moves all times of the keys into the past.
func shiftKeys(t *testing.T, conn *pgx.Conn, by time.Duration) {
	t.Helper()
	const shift = "update signing_keys set signs_from = signs_from - $1::interval, signs_until = signs_until - $1::interval"
	if _, err := conn.Exec(t.Context(), shift, by); err != nil {
		t.Fatal(err)
	}
}

func expectKeys(t *testing.T, store *sink.Store, states string, ids ...string) {
	t.Helper()
	gotIDs, got := keys(t, store)
	if got != states || !slices.Equal(gotIDs, ids) {
		t.Fatalf("the keys are %s %q, want %s %q", got, gotIDs, states, ids)
	}
}

// A key waits, signs, verifies, and is gone.
func TestStore_RotateKey(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	ctx := t.Context()
	ids, _ := keys(t, store)
	expectKeys(t, store, "s", ids[0])
	second, err := store.RotateKey(ctx, 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	expectKeys(t, store, "sw", ids[0], second.ID)
	if _, err := store.RotateKey(ctx, time.Hour); !errors.Is(err, sink.ErrKeyWaiting) {
		t.Errorf("rotated while a key waits: %v", err)
	}
	shiftKeys(t, conn, 10*time.Minute)
	expectKeys(t, store, "vs", ids[0], second.ID)
	// What a front of an older version asks for.
	if n := count(t, conn, "select count(*) from (select pkcs8 from signing_keys where id = 1) t"); n != 1 {
		t.Errorf("older fronts find %d keys", n)
	}
	third, err := store.RotateKey(ctx, 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	shiftKeys(t, conn, 11*time.Minute)
	expectKeys(t, store, "vvs", ids[0], second.ID, third.ID)
	shiftKeys(t, conn, sink.KeyKept-5*time.Minute)
	expectKeys(t, store, "vs", second.ID, third.ID)
	shiftKeys(t, conn, time.Hour)
	expectKeys(t, store, "s", third.ID)
	if _, err := store.RotateKey(ctx, time.Hour); err != nil {
		t.Fatal(err)
	}
	if n := count(t, conn, "select count(*) from signing_keys"); n != 2 {
		t.Errorf("%d keys are kept, two of them of use", n)
	}
}

// Whichever key is dropped, one signs afterwards that all fronts have read by then.
func TestStore_DropKey(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	ctx := t.Context()
	rotate := func() string {
		t.Helper()
		key, err := store.RotateKey(ctx, 10*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		return key.ID
	}
	drop := func(id string, force bool) *sink.SigningKey {
		t.Helper()
		next, err := store.DropKey(ctx, id, force)
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	inFiveSeconds := func(id string) {
		t.Helper()
		shiftKeys(t, conn, -time.Hour) // so that it waits however slow the test is
		expectKeys(t, store, "w", id)
		shiftKeys(t, conn, time.Hour+5*time.Second)
		expectKeys(t, store, "s", id)
	}
	ids, _ := keys(t, store)
	first := ids[0]
	second := rotate()
	if next := drop(second, false); next != nil { // it waited: the first one goes on
		t.Errorf("%+v signs next", next)
	}
	expectKeys(t, store, "s", first)

	second = rotate()
	shiftKeys(t, conn, 10*time.Minute)
	if next := drop(first, false); next != nil { // it verified
		t.Errorf("%+v signs next", next)
	}
	expectKeys(t, store, "s", second)

	third := rotate()
	if _, err := store.DropKey(ctx, second, false); !errors.Is(err, sink.ErrKeySigns) {
		t.Errorf("the key that signs is dropped: %v", err)
	}
	expectKeys(t, store, "sw", second, third)
	if next := drop(second, true); next == nil || next.ID != third { // the one that waits need not wait long now
		t.Errorf("%+v signs next", next)
	}
	inFiveSeconds(third)

	next := drop(third, true) // the only one
	if next == nil {
		t.Fatal("no key signs next")
	}
	inFiveSeconds(next.ID)
	drop(next.ID, true)
	shiftKeys(t, conn, -time.Hour)
	ids, states := keys(t, store)
	if states != "w" {
		t.Fatalf("the keys are %s", states)
	}
	next = drop(ids[0], false) // one that waits, while none signs
	if next == nil {
		t.Fatal("no key signs next")
	}
	inFiveSeconds(next.ID)
	if _, err := store.DropKey(ctx, first, true); !errors.Is(err, sink.ErrNoKey) {
		t.Errorf("dropped twice: %v", err)
	}
}
