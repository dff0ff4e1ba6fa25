package sink_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"intake"
)

// A repeat whose reservation waits while the batch is withdrawn takes over, but with a batch
// of its own: nothing of the withdrawn one would be saved.
func TestStore_ReserveDuringWithdraw(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	ctx := t.Context()
	first, second := chunk(client(0, "a", 1)), chunk(client(0, "a", 1))
	hash := [32]byte{1}
	if c, err := store.Reserve(ctx, 1, "key", hash, first.Batch, -time.Second); err != nil ||
		c.State != intake.ReservationFresh {
		t.Fatal(c, err)
	}
	// The withdrawal waits for this row after it has locked the key.
	blocker, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const row = `
		insert into batch_status (batch_id, chunk, chunks, partner_id, first_item, items, completed)
		values ($1, 0, 1, 1, 0, 1, 0)`
	if _, err := blocker.Exec(ctx, row, first.Batch); err != nil {
		t.Fatal(err)
	}
	withdrawn := make(chan error, 1)
	go func() {
		ok, err := store.Withdraw(ctx, []*intake.Chunk{first}, &intake.Holder{Key: "key", Owner: first.Batch})
		if err == nil && !ok {
			err = errors.New("it is finished")
		}
		withdrawn <- err
	}()
	waitBlocked(t, conn, 1)
	reserved := make(chan intake.Reservation, 1)
	go func() {
		c, err := store.Reserve(ctx, 1, "key", hash, second.Batch, time.Minute)
		if err != nil {
			t.Error(err)
		}
		reserved <- c
	}()
	waitBlocked(t, conn, 2)
	if err := blocker.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-withdrawn; err != nil {
		t.Fatal(err)
	}
	if c := <-reserved; c.State != intake.ReservationFresh || c.Batch != second.Batch {
		t.Errorf("the one who takes over has the state %d and the batch %s; %s is withdrawn, %s its own", c.State,
			c.Batch, first.Batch, second.Batch)
	}
	// A later repeat finds the same batch.
	third := uuid.Must(uuid.NewV7())
	if c, err := store.Reserve(ctx, 1, "key", hash, third, time.Minute); err != nil ||
		c.State != intake.ReservationRunning || c.Batch != second.Batch {
		t.Errorf("a later repeat gets %+v %v", c, err)
	}
}

// waitBlocked waits until a number of sessions of the store wait for a lock.
func waitBlocked(t *testing.T, conn *pgx.Conn, sessions int) {
	t.Helper()
	other, err := pgx.Connect(t.Context(), conn.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(t.Context())
	const query = `
		select count(*) from pg_stat_activity
		 where application_name = 'intake' and datname = current_database() and wait_event_type = 'Lock'`
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		n := count(t, other, query)
		if n == sessions {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sessions wait for a lock, want %d", n, sessions)
		}
	}
}

// An answer is kept by the request that has the reservation. One that has lost it gets the
// answer that was kept for its batch, and never touches another request's key.
func TestStore_KeepAnswer(t *testing.T) {
	t.Parallel()
	store, _ := open(t)
	reserve := func(key string, hash byte, want intake.ReservationState) (intake.Holder, uuid.UUID) {
		t.Helper()
		owner := uuid.Must(uuid.NewV7())
		c, err := store.Reserve(t.Context(), 1, key, [32]byte{hash}, owner, -time.Second)
		if err != nil || c.State != want {
			t.Fatalf("reserve %q: %+v %v", key, c, err)
		}
		return intake.Holder{Key: key, BodyHash: [32]byte{hash}, Owner: owner}, c.Batch
	}
	keep := func(holder intake.Holder, batch uuid.UUID, answer, want string) {
		t.Helper()
		got, err := store.KeepAnswer(t.Context(), 1, holder, batch, []byte(answer))
		switch {
		case want == "" && !errors.Is(err, intake.ErrTakenOver):
			t.Errorf("%s keeps an answer: it gets %q %v, want ErrTakenOver", answer, got, err)
		case want != "" && (err != nil || string(got) != want):
			t.Errorf("%s keeps an answer: it gets %q %v, want %q", answer, got, err, want)
		}
	}
	// A is stopped; B takes over. Only B's answer counts, for A too.
	a, batch := reserve("taken over", 1, intake.ReservationFresh)
	b, inherited := reserve("taken over", 1, intake.ReservationTakenOver)
	if inherited != batch {
		t.Fatalf("batch %s, taken over as %s", batch, inherited)
	}
	keep(a, batch, "A", "")
	keep(b, batch, "B", "B")
	keep(a, batch, "A", "B")
	keep(b, batch, "B again", "B")

	// A is stopped; B takes over and releases the key; C uses it for another body.
	a, batch = reserve("given up", 1, intake.ReservationFresh)
	b, _ = reserve("given up", 1, intake.ReservationTakenOver)
	if err := store.Release(t.Context(), 1, b); err != nil {
		t.Fatal(err)
	}
	keep(a, batch, "A", "")
	c, other := reserve("given up", 2, intake.ReservationFresh)
	keep(a, batch, "A", "")
	keep(c, other, "C", "C")
	keep(a, batch, "A", "")
}
