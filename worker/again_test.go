package worker

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	"intake"
	"intake/internal/local/localtest"
	"intake/worker/queue"
)

// A message is delivered again while the transaction of its first delivery still
// runs: both want the same keys, one of them saves, and both say so.
func TestWorker_DeliveredAgainWhileItIsBeingSaved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	conn := r.connect(t)
	lock, err := r.connect(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Transactions get as far as their last statement.
	if _, err := lock.Exec(t.Context(), "lock table batch_status in exclusive mode"); err != nil {
		t.Fatal(err)
	}
	waiting := func(n int) func() bool {
		return func() bool {
			var is int
			err := conn.QueryRow(t.Context(), `select count(*) from pg_stat_activity
				where application_name = 'intake' and datname = current_database() and wait_event_type = 'Lock'`).Scan(&is)
			return err == nil && is >= n
		}
	}
	start(t, r.worker(t, Options{AckWait: time.Hour}).Run) // it sends no sign of life in time
	q := r.queue(t, r.nc, queue.Options{Ledger: silentLedger{r.store}})
	batch := newBatch("a", "b")
	ticket := submit(t, q, batch)
	localtest.Eventually(t, "it is being saved", waiting(1))
	start(t, r.worker(t, Options{AckWait: time.Second}).Run) // which changes the consumer
	localtest.Eventually(t, "it is being saved twice", waiting(2))
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, ticket)
	wantCodes(t, batch, intake.CodeSaved, intake.CodeSaved)
	r.wantAllAcked(t)
	r.wantRecords(t, 2)
}

// A worker's acknowledgement is lost: another worker gets the message, finds what
// was decided, and decides nothing else.
func TestWorker_AckLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nc, mute := r.mute(t)
	w, err := New(nc, Options{Store: r.store, AckWait: time.Second, Stream: queue.StreamOptions{MaxBytes: 64 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	w.committed = sync.OnceFunc(mute)
	start(t, w.Run)
	q := r.queue(t, r.nc, queue.Options{Ledger: silentLedger{r.store}})
	batch := newBatch("a", "b")
	ticket := submit(t, q, batch)
	localtest.Eventually(t, "it is saved", func() bool {
		outcomes, err := r.store.Outcomes(t.Context(), []uuid.UUID{batch.ID})
		return err == nil && len(outcomes) == 1
	})
	start(t, r.worker(t, Options{AckWait: time.Second}).Run)
	waitFor(t, ticket)
	wantCodes(t, batch, intake.CodeSaved, intake.CodeSaved)
	r.wantAllAcked(t)
	r.wantRecords(t, 2)
}

// A publish whose answer was lost is tried again when JetStream does not know the
// message any more: it is in the stream twice, and saved once.
func TestWorker_DuplicateWindowPassed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, queue.Options{Ledger: silentLedger{r.store}})
	batch := newBatch("a", "b")
	ticket := submit(t, q, batch)
	stream := r.stream(t)
	stored, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.Duplicates = 100 * time.Millisecond
	localtest.Eventually(t, "the message is stored again", func() bool {
		// If the server looks at its messages before it has the new window, it goes by the old one.
		// Another change makes it look again.
		config.Duplicates += time.Millisecond
		if _, err := r.js.UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		ack, err := r.js.PublishMsg(t.Context(), &nats.Msg{Subject: stored.Subject, Header: stored.Header,
			Data: stored.Data})
		return err == nil && !ack.Duplicate
	})
	start(t, r.worker(t, Options{}).Run)
	waitFor(t, ticket)
	wantCodes(t, batch, intake.CodeSaved, intake.CodeSaved)
	r.wantAllAcked(t)
	r.wantRecords(t, 2)
}

func (r *rig) connect(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), r.postgresURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func (r *rig) wantRecords(t *testing.T, want int) {
	t.Helper()
	var records, claims int
	const query = "select (select count(*) from partner_clients), (select count(*) from revenue_claims)"
	if err := r.connect(t).QueryRow(t.Context(), query).Scan(&records, &claims); err != nil {
		t.Fatal(err)
	}
	if records != want || claims != want {
		t.Errorf("%d records with %d claims, want %d with one each", records, claims, want)
	}
}
