package worker

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"intake"
	"intake/internal/local/localtest"
	"intake/worker/queue"
)

// impatient makes a worker give up a message as soon as it may: after a few deliveries,
// however young it is.
func impatient(w *Worker) *Worker {
	w.patience, w.firstNak, w.maxDeliveries, w.maxAge = 10*time.Millisecond, 5*time.Millisecond, 5, 0
	return w
}

// saveUntil saves batches of others until something is true.
func (r *rig) saveUntil(t *testing.T, q *queue.Queue, what string, condition func() bool) {
	t.Helper()
	n := 0
	localtest.Eventually(t, what, func() bool {
		n++
		waitFor(t, submit(t, q, newBatch(fmt.Sprint("another-", n))))
		return condition()
	})
}

func (r *rig) letters(t *testing.T) (letters []*DeadLetter) {
	t.Helper()
	dead, err := OpenDeadLetters(t.Context(), r.nc)
	if err == nil {
		err = dead.Each(t.Context(), func(l *DeadLetter) error {
			letters = append(letters, l)
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return letters
}

func (r *rig) retry(t *testing.T, letter *DeadLetter) {
	t.Helper()
	dead, err := OpenDeadLetters(t.Context(), r.nc)
	if err == nil {
		err = dead.Retry(t.Context(), letter)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) exec(t *testing.T, sql string) {
	t.Helper()
	if _, err := r.connect(t).Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// breakTable has Postgres answer inserts into a table for which a condition is true with
// an error that is not one of the data.
func (r *rig) breakTable(t *testing.T, table, condition string) (mend func()) {
	t.Helper()
	r.exec(t, `create function broken() returns trigger language plpgsql as $$
		begin raise exception 'index is broken' using errcode = 'XX002'; end $$`)
	r.exec(t, "create trigger broken before insert on "+table+
		" for each row when ("+condition+") execute function broken()")
	return func() {
		t.Helper()
		r.exec(t, "drop trigger broken on "+table)
	}
}

// A message that Postgres answers with an error, whenever it is to be saved, goes to the
// dead letters with the SQLSTATE while others are saved; nothing is left in the log that
// is not processed. Queued again, it is saved when Postgres is mended.
func TestWorker_UnsavableMessage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	mend := r.breakTable(t, "partner_clients", "new.partner_client_id = 'bad'")
	w := impatient(r.worker(t, Options{Keep: time.Nanosecond}))
	start(t, w.Run)
	q := r.queue(t, r.nc, queue.Options{})
	bad := newBatch("bad", "good")
	ticket := submit(t, q, bad)
	r.saveUntil(t, q, "it is a dead letter", func() bool { return len(r.letters(t)) > 0 })
	letter := r.letters(t)[0]
	if !strings.Contains(letter.Reason, "SQLSTATE XX002") || letter.Batch != bad.ID {
		t.Errorf("letter of batch %s: %s", letter.Batch, letter.Reason)
	}
	r.wantAllAcked(t)
	localtest.Eventually(t, "the log is purged", func() bool {
		info, err := r.stream(t).Info(t.Context())
		return err == nil && w.purgeProcessed(t.Context()) == nil && info.State.Msgs == 0
	})

	mend()
	r.retry(t, letter)
	waitFor(t, ticket)
	wantCodes(t, bad, intake.CodeSaved, intake.CodeSaved)
	if letters := r.letters(t); len(letters) > 0 {
		t.Errorf("dead letter %d is left: %s", letters[0].Sequence, letters[0].Reason)
	}
}

// A message that is queued again while it still can't be saved is tried as often as a
// new one before it is a dead letter again, at whatever moment that is.
func TestWorker_UnsavableMessageAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.breakTable(t, "partner_clients", "new.partner_client_id = 'bad'")
	start(t, impatient(r.worker(t, Options{})).Run)
	q := r.queue(t, r.nc, queue.Options{})
	submit(t, q, newBatch("bad"))
	dead := func(letter uint64) *DeadLetter {
		t.Helper()
		r.saveUntil(t, q, fmt.Sprint("letter ", letter, " is there"), func() bool {
			letters := r.letters(t)
			return len(letters) == 1 && letters[0].Sequence == letter
		})
		return r.letters(t)[0]
	}
	for n := range uint64(2) {
		r.retry(t, dead(n+1))
	}
	dead(3)
}

// No message is given up while Postgres saves nothing, because it is down or fails every transaction.
func TestWorker_NothingIsGivenUpInAnOutage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := impatient(r.worker(t, Options{}))
	start(t, w.Run)
	q := r.queue(t, r.nc, queue.Options{})
	first := newBatch("first")
	waitFor(t, submit(t, q, first))
	mend := r.breakTable(t, "batch_status", "true")
	batches := []*intake.Batch{newBatch("a"), newBatch("b"), newBatch("c")}
	var tickets []queue.Ticket
	for _, batch := range batches {
		tickets = append(tickets, submit(t, q, batch))
	}
	localtest.Eventually(t, "they were handed back more often than others are before they are given up", func() bool {
		return testutil.ToFloat64(w.metrics.redelivered) > 30
	})
	mend()
	for i, ticket := range tickets {
		waitFor(t, ticket)
		wantCodes(t, batches[i], intake.CodeSaved)
	}
	if letters := r.letters(t); len(letters) > 0 {
		t.Errorf("given up: %s", letters[0].Reason)
	}
}

// A message of a newer version goes to the dead letters when no newer worker has come
// for it, while this one saves others.
func TestWorker_NewerMessageIsGivenUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	start(t, impatient(r.worker(t, Options{})).Run)
	q := r.queue(t, r.nc, queue.Options{})
	if _, err := r.js.Publish(t.Context(), queue.SubjectPrefix+"waiting.acme.y.0", []byte("\x7fnewer")); err != nil {
		t.Fatal(err)
	}
	r.saveUntil(t, q, "it is a dead letter", func() bool { return len(r.letters(t)) > 0 })
	if reason := r.letters(t)[0].Reason; reason != queue.ErrNewer.Error() {
		t.Error(reason)
	}
	r.wantAllAcked(t)
}

// What a worker has moved to the dead letters is there once, though the worker died
// before it took the message out of the queue, and another one did so long after.
func TestWorker_BuriedTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker(t, Options{})
	consumers, err := queue.SetUp(t.Context(), w.js, queue.StreamOptions{MaxBytes: 64 << 20}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	// JetStream knows what is published again for a moment only.
	config := configOf(t, r.nc, queue.DeadStreamName)
	config.Duplicates = 100 * time.Millisecond
	if _, err := w.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if _, err := w.js.Publish(t.Context(), queue.SubjectPrefix+"waiting.acme.x.0", []byte("\x01rubbish")); err != nil {
		t.Fatal(err)
	}
	msg, err := consumers[0].Next()
	if err != nil {
		t.Fatal(err)
	}
	w.bury(t.Context(), mutedMsg{msg}, 1, context.Canceled)
	dead, err := w.js.Stream(t.Context(), queue.DeadStreamName)
	if err != nil {
		t.Fatal(err)
	}
	probe := func() bool { // whether the first one would be taken again
		ack, err := w.js.Publish(t.Context(), queue.DeadSubjectPrefix+"probe", nil, jetstream.WithMsgID("probe"))
		return err == nil && !ack.Duplicate && ack.Sequence > 2
	}
	localtest.Eventually(t, "the duplicate window is over", probe)
	if err := dead.Purge(t.Context(), jetstream.WithPurgeSubject(queue.DeadSubjectPrefix+"probe")); err != nil {
		t.Fatal(err)
	}
	w.bury(t.Context(), msg, 2, context.Canceled)
	if letters := r.letters(t); len(letters) != 1 {
		t.Errorf("%d letters, want 1", len(letters))
	}
	r.wantAllAcked(t)
}

// A mutedMsg is one whose worker dies before it can say anything of it.
type mutedMsg struct{ jetstream.Msg }

func (mutedMsg) TermWithReason(string) error { return nil }

// A message that finds the dead letters full stays in the queue until there is room.
func TestWorker_DeadLettersFull(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker(t, Options{})
	consumers, err := queue.SetUp(t.Context(), w.js, queue.StreamOptions{MaxBytes: 64 << 20}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	config := configOf(t, r.nc, queue.DeadStreamName)
	resize := func(bytes int64) {
		t.Helper()
		config.MaxBytes = bytes
		if _, err := w.js.UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	room := config.MaxBytes
	resize(100)
	if _, err := w.js.Publish(t.Context(), queue.SubjectPrefix+"waiting.acme.x.0", []byte("\x01rubbish")); err != nil {
		t.Fatal(err)
	}
	bury := func() {
		t.Helper()
		msg, err := consumers[0].Next()
		if err != nil {
			t.Fatal(err)
		}
		w.bury(t.Context(), msg, 0, context.Canceled)
	}
	bury()
	if letters := r.letters(t); len(letters) != 0 {
		t.Errorf("%d letters without room", len(letters))
	}
	resize(room)
	bury()
	if letters := r.letters(t); len(letters) != 1 {
		t.Errorf("%d letters, want 1", len(letters))
	}
	r.wantAllAcked(t)
}

// A message of a partner that Postgres does not know by its number and name is not saved
// under that number: it goes to the dead letters, and what shares its gathering is saved.
// Added again, the partner gets what was queued.
func TestWorker_UnknownPartner(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, queue.Options{})
	lost := r.addPartner(t, "lost")
	queueFor := func(partner intake.Partner, id string) (*intake.Batch, queue.Ticket) {
		t.Helper()
		batch := newBatch(id)
		batch.Partner = partner
		return batch, submit(t, q, batch)
	}
	// The backup was made before that partner was added; another one has its number.
	r.exec(t, "delete from partners where name = 'lost'")
	r.exec(t, `insert into partners (id, name, currency, secret_hash)
		overriding system value values (2, 'other', 'GBP', '')`)
	stranger, ticket := queueFor(lost, "a")
	known, knownTicket := queueFor(newBatch().Partner, "b")
	start(t, r.worker(t, Options{}).Run)
	waitFor(t, knownTicket)
	wantCodes(t, known, intake.CodeSaved)
	localtest.Eventually(t, "it is a dead letter", func() bool { return len(r.letters(t)) == 1 })
	letter := r.letters(t)[0]
	const reason = "partner lost with the number 2 is not in the data store"
	if letter.Partner != "lost" || !strings.Contains(letter.Reason, reason) {
		t.Errorf("letter of %s: %s", letter.Partner, letter.Reason)
	}
	r.wantAllAcked(t)
	r.wantRecords(t, 1)

	r.exec(t, "update partners set name = 'lost' where id = 2")
	r.retry(t, letter)
	waitFor(t, ticket)
	wantCodes(t, stranger, intake.CodeSaved)
}
