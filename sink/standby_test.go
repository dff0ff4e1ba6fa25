package sink_test

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"intake"
	"intake/internal/local"
	"intake/internal/local/localtest"
	"intake/sink"
)

// openOwn returns a store in a Postgres that the test has for itself.
func openOwn(t *testing.T) (*sink.Store, *local.Postgres) {
	t.Helper()
	ctx, postgres := t.Context(), localtest.OwnPostgres(t)
	if _, _, err := sink.Migrate(ctx, postgres.URL()); err != nil {
		t.Fatal(err)
	}
	store, err := sink.Open(ctx, sink.Options{URL: postgres.URL(), MaxConns: 8, RefuseUnsafe: true, NeedSchema: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	if _, err := store.AddPartner(ctx, intake.Partner{Name: "acme", Currency: "GBP"}, [32]byte{}); err != nil {
		t.Fatal(err)
	}
	return store, postgres
}

// run runs statements on a connection of their own.
func run(t *testing.T, postgres *local.Postgres, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// requireStandby has Postgres wait, at each commit, for a standby that there is not.
func requireStandby(t *testing.T, postgres *local.Postgres) {
	t.Helper()
	run(t, postgres, "alter system set synchronous_standby_names = 'away'", "select pg_reload_conf()")
	awaitStandbyRequired(t, postgres)
}

// awaitStandbyRequired waits until commits wait for the standby.
func awaitStandbyRequired(t *testing.T, postgres *local.Postgres) {
	t.Helper()
	for {
		conn, err := pgx.Connect(t.Context(), postgres.URL())
		if err != nil {
			t.Fatal(err)
		}
		try, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err = conn.Exec(try, "select pg_logical_emit_message(true, 'test', '')")
		cancel()
		conn.Close(context.WithoutCancel(t.Context()))
		if err != nil {
			return
		}
	}
}

// sqlWaiting are the sessions of a store that wait for a standby.
const sqlWaiting = " from pg_stat_activity where application_name = 'intake' and wait_event = 'SyncRep'"

// Nothing is called saved that a synchronous standby does not have: not what is
// tried again and again, nor what became visible without the standby, as a wait
// was cancelled or the server restarted.
func TestStore_StandbyAway(t *testing.T) {
	t.Parallel()
	store, postgres := openOwn(t)
	ctx := t.Context()
	before := chunk(client(0, "before", 1))
	save(t, store, before)
	requireStandby(t, postgres)
	conn, err := pgx.Connect(ctx, postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()

	c := chunk(client(0, "a", 1))
	for try := range 3 {
		trying, cancel := context.WithTimeout(ctx, time.Second)
		saved, err := store.Save(trying, []*intake.Chunk{c})
		cancel()
		if err == nil {
			t.Fatalf("try %d: %+v without a standby", try, saved.Outcomes)
		}
	}
	if n := count(t, conn, "select count(*) from partner_clients"); n != 1 {
		t.Errorf("%d records are visible: a cancel has reached a commit", n)
	}
	if n := count(t, conn, "select count(*)"+sqlWaiting); n != 1 {
		t.Errorf("%d commits wait for the standby, want 1", n)
	}

	for deadline := time.Now().Add(30 * time.Second); !errors.Is(store.Ping(ctx), sink.ErrStandbyAway); {
		if time.Now().After(deadline) {
			t.Fatal("the store is ready, and its commits wait for a standby")
		}
	}

	await(t, conn, "select count(pg_cancel_backend(pid)) = 1"+sqlWaiting)
	await(t, conn, "select count(*) = 2 from partner_clients")
	nothingIsSaved(t, store, c)

	postgres.Kill()
	if err := postgres.Start(ctx); err != nil {
		t.Fatal(err)
	}
	awaitStandbyRequired(t, postgres)
	nothingIsSaved(t, store, c, before)

	run(t, postgres, "alter system reset synchronous_standby_names", "select pg_reload_conf()")
	for _, outcome := range save(t, store, c, before).Outcomes {
		wantNotSaved(t, outcome)
	}
	if finished, err := store.Finished(ctx, 1, c.Batch); err != nil || len(finished) != 1 {
		t.Errorf("%v, %v when no standby is required any more", finished, err)
	}
	if err := store.Ping(ctx); err != nil {
		t.Errorf("%v when no standby is required any more", err)
	}
}

// await waits until a query answers true.
func await(t *testing.T, conn *pgx.Conn, query string) {
	t.Helper()
	for yes := false; !yes; {
		if err := conn.QueryRow(t.Context(), query).Scan(&yes); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
}

// nothingIsSaved checks that nobody is told of chunks that are there, and may be
// lost, that they are.
func nothingIsSaved(t *testing.T, store *sink.Store, chunks ...*intake.Chunk) {
	t.Helper()
	for _, c := range chunks {
		id := c.Clients[0].ID
		for what, ask := range map[string]func(context.Context) (any, error){
			"Save":     func(ctx context.Context) (any, error) { return store.Save(ctx, []*intake.Chunk{c}) },
			"Outcomes": func(ctx context.Context) (any, error) { return store.Outcomes(ctx, []uuid.UUID{c.Batch}) },
			"Finished": func(ctx context.Context) (any, error) { return store.Finished(ctx, 1, c.Batch) },
			"Records":  func(ctx context.Context) (any, error) { return store.Records(ctx, 1, []string{id}) },
			"Record": func(ctx context.Context) (any, error) {
				record, _, _, err := store.Record(ctx, 1, id)
				return record, err
			},
			"KeysAfter": func(ctx context.Context) (any, error) {
				keys, _, err := store.KeysAfter(ctx, intake.SavedKey{}, 10)
				return keys, err
			},
		} {
			asking, cancel := context.WithTimeout(t.Context(), time.Second)
			told, err := ask(asking)
			cancel()
			if err == nil {
				t.Errorf("%s of %s: %+v without a standby", what, id, told)
			}
		}
	}
}

// A commit waits for the standby as long as the server says that it does, without
// deadline; it is given up when the server says nothing for long.
func TestStore_StandbyOrSilence(t *testing.T) {
	t.Parallel()
	store, postgres := openOwn(t)
	save(t, store, chunk(client(0, "before", 1)))
	const silence = 500 * time.Millisecond
	sink.SetSilence(store, silence)
	requireStandby(t, postgres)
	conn, err := pgx.Connect(t.Context(), postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	saving := func(c *intake.Chunk) (ended chan error) {
		ended = make(chan error, 1)
		go func() {
			_, err := store.Save(t.Context(), []*intake.Chunk{c})
			ended <- err
		}()
		return ended
	}
	ended := saving(chunk(client(0, "a", 1)))
	await(t, conn, "select count(*) = 1"+sqlWaiting+" and state_change < clock_timestamp() - interval '3 seconds'")
	run(t, postgres, "alter system reset synchronous_standby_names", "select pg_reload_conf()")
	if err := <-ended; err != nil {
		t.Errorf("%v, when it had waited for longer than a server may be silent", err)
	}

	requireStandby(t, postgres)
	ended = saving(chunk(client(0, "b", 1)))
	await(t, conn, "select count(*) = 1"+sqlWaiting)
	postgres.Signal(syscall.SIGSTOP)
	defer postgres.Signal(syscall.SIGCONT)
	if err := <-ended; err == nil {
		t.Error("saved by a server that has fallen silent")
	}
}

// A commit whose wait for the standby an operator cancels is reported as one that
// may be lost, though Postgres answers it as any other.
func TestStore_StandbyWaitCancelled(t *testing.T) {
	t.Parallel()
	store, postgres := openOwn(t)
	ctx := t.Context()
	save(t, store, chunk(client(0, "before", 1)))
	reserve := func(ctx context.Context) (intake.Reservation, error) {
		return store.Reserve(ctx, 1, "key", [32]byte{}, uuid.Must(uuid.NewV7()), time.Minute)
	}
	first, err := reserve(ctx)
	if err != nil {
		t.Fatal(err)
	}
	requireStandby(t, postgres)
	conn, err := pgx.Connect(ctx, postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	a, withdrawn := chunk(client(0, "a", 1)), chunk(client(0, "w", 1))
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"a save", func() error { _, err := store.Save(ctx, []*intake.Chunk{a}); return err }},
		{"the same again", func() error { _, err := store.Save(ctx, []*intake.Chunk{a}); return err }},
		{"a look at it", func() error { _, err := store.Finished(ctx, 1, a.Batch); return err }},
		{"a withdrawal", func() error { _, err := store.Withdraw(ctx, []*intake.Chunk{withdrawn}, nil); return err }},
		{"an answer", func() error {
			_, err := store.KeepAnswer(ctx, 1, intake.Holder{Key: "key", Owner: first.Batch}, first.Batch,
				[]byte("answer"))
			return err
		}},
		{"a repeat", func() error { _, err := reserve(ctx); return err }},
	} {
		done := make(chan error, 1)
		go func() { done <- step.do() }()
		// What a transaction before has left behind is cancelled too.
		for ended := false; !ended; {
			select {
			case err := <-done:
				if ended = true; err == nil || errors.Is(err, ctx.Err()) {
					t.Errorf("%s: %v, want an error", step.what, err)
				}
			default:
				await(t, conn, "select count(pg_cancel_backend(pid)) >= 0"+sqlWaiting)
			}
		}
	}
	run(t, postgres, "alter system reset synchronous_standby_names", "select pg_reload_conf()")
	if again, err := reserve(ctx); err != nil || again.State != intake.ReservationAnswered ||
		again.Batch != first.Batch {
		t.Errorf("%+v, %v when no standby is required any more", again, err)
	}
}
