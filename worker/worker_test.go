package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"intake"
	"intake/internal/local/localtest"
	"intake/sink"
	"intake/worker/queue"
)

// doomedEnv makes this test binary a worker that is killed at its first commit.
const doomedEnv = "INTAKE_TEST_DOOMED_WORKER"

func TestMain(m *testing.M) {
	if urls := os.Getenv(doomedEnv); urls != "" {
		runDoomedWorker(strings.Split(urls, " "))
		os.Exit(1) // it should have been killed
	}
	localtest.Main(m)
}

func runDoomedWorker(urls []string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	store, err := sink.Open(ctx, sink.Options{URL: urls[0]})
	if err != nil {
		panic(err)
	}
	nc, err := queue.Connect(urls[1], "doomed", nil)
	if err != nil {
		panic(err)
	}
	w, err := New(nc, Options{Store: store, AckWait: time.Second})
	if err != nil {
		panic(err)
	}
	w.committed = func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) }
	_ = w.Run(ctx)
}

// A rig is a NATS and a data store, with what the tests need of them.
type rig struct {
	natsURL, postgresURL string
	nc                   *nats.Conn
	js                   jetstream.JetStream
	store                *sink.Store
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{natsURL: localtest.NATS(t), postgresURL: localtest.Postgres(t)}
	if _, _, err := sink.Migrate(t.Context(), r.postgresURL); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.store, err = sink.Open(t.Context(), sink.Options{URL: r.postgresURL}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.store.Close)
	r.nc = connect(t, r.natsURL)
	if r.js, err = jetstream.New(r.nc); err != nil {
		t.Fatal(err)
	}
	r.addPartner(t, "acme") // which is that of newBatch
	return r
}

// addPartner adds a partner; the first one has ID 1.
func (r *rig) addPartner(t *testing.T, name string) intake.Partner {
	t.Helper()
	partner, err := r.store.AddPartner(t.Context(), intake.Partner{Name: name, Currency: "GBP"}, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	return partner
}

func connect(t *testing.T, url string) *nats.Conn {
	t.Helper()
	nc, err := queue.Connect(url, t.Name(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// start runs something until the test ends, or until it is stopped.
func start(t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(stop)
	return stop
}

func (r *rig) worker(t *testing.T, opts Options) *Worker {
	t.Helper()
	if opts.Store == nil {
		opts.Store = r.store
	}
	opts.Stream.MaxBytes = 64 << 20
	w, err := New(r.nc, opts)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// queue returns a running queue whose stream is there.
func (r *rig) queue(t *testing.T, nc *nats.Conn, opts queue.Options) *queue.Queue {
	t.Helper()
	if opts.Ledger == nil {
		opts.Ledger = r.store
	}
	opts.Stream.MaxBytes = 64 << 20
	q, err := queue.New(nc, opts)
	if err != nil {
		t.Fatal(err)
	}
	start(t, q.Run)
	localtest.Eventually(t, "the stream is there", func() bool { return q.Ready(t.Context()) == nil })
	return q
}

func newBatch(ids ...string) *intake.Batch {
	batch := &intake.Batch{Partner: intake.Partner{ID: 1, Name: "acme", Currency: "GBP"}}
	for i, id := range ids {
		batch.Items = append(batch.Items, intake.Item{Raw: []byte(`{}`), Key: id, Client: intake.PartnerClient{
			Item: i, ID: id, EntityType: "SoleTrader", StartDate: intake.NoTimestamp,
			Claims: []intake.RevenueClaim{{Period: intake.Monthly, TotalAmount: intake.Amount{Abs: 1},
				TransactionCount: 1}},
		}})
	}
	batch.Verdicts = make([]intake.Verdict, len(ids))
	return batch
}

// submit queues a batch that is waited for, and sets its ID.
func submit(t *testing.T, q *queue.Queue, batch *intake.Batch) queue.Ticket {
	t.Helper()
	return submitTo(t, q, batch, queue.Waiting)
}

func submitTo(t *testing.T, q *queue.Queue, batch *intake.Batch, lane queue.Lane) queue.Ticket {
	t.Helper()
	ticket, err := q.Submit(t.Context(), batch, lane)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ticket.Release)
	batch.ID = ticket.ID()
	return ticket
}

func waitFor(t *testing.T, ticket queue.Ticket) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if !ticket.Wait(ctx) {
		t.Fatal("no outcome")
	}
}

func wantCodes(t *testing.T, batch *intake.Batch, want ...intake.Code) {
	t.Helper()
	for i, verdict := range batch.Verdicts {
		if verdict.Code != want[i] {
			t.Errorf("item %d is %s: %s; want %s", i, verdict.Code, verdict.Text, want[i])
		}
	}
}

// silentLedger knows nothing, so that outcomes can only come from workers.
type silentLedger struct{ queue.Ledger }

func (silentLedger) Outcomes(context.Context, []uuid.UUID) ([]intake.Outcome, error) { return nil, nil }

// A batch comes out with a verdict on every item, of several chunks if it is
// large, and keeps what the front has rejected.
func TestWorker(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	start(t, r.worker(t, Options{}).Run)
	q := r.queue(t, r.nc, queue.Options{Ledger: silentLedger{r.store}})
	small := newBatch("a", "b", "a2")
	small.Verdicts[1] = intake.Invalid("entity_type: required")
	waitFor(t, submit(t, q, small))
	wantCodes(t, small, intake.CodeSaved, intake.CodeInvalid, intake.CodeSaved)

	ids := make([]string, 3*queue.MaxChunkItems+1)
	want := make([]intake.Code, len(ids))
	for i := range ids {
		ids[i], want[i] = fmt.Sprint("large-", i), intake.CodeSaved
	}
	ids[queue.MaxChunkItems+5], want[queue.MaxChunkItems+5] = "a", intake.CodeDuplicateOfSaved
	large := newBatch(ids...)
	waitFor(t, submit(t, q, large))
	wantCodes(t, large, want...)
}

// A worker is killed between the commit and the ack, and then another one: the
// third finds the rows and says Completed, and they are there once.
func TestWorker_KilledAfterCommit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, queue.Options{Ledger: silentLedger{r.store}})
	batch := newBatch("a", "b")
	ticket := submit(t, q, batch)
	for range 2 {
		doomed := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
		doomed.Env = append(os.Environ(), doomedEnv+"="+r.postgresURL+" "+r.natsURL)
		output, err := doomed.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the worker was not killed: %v\n%s", err, output)
		}
		if outcomes, err := r.store.Outcomes(t.Context(), []uuid.UUID{batch.ID}); err != nil || len(outcomes) != 1 {
			t.Fatalf("the worker did not commit: %v %v", outcomes, err)
		}
	}
	start(t, r.worker(t, Options{AckWait: time.Second}).Run)
	waitFor(t, ticket)
	wantCodes(t, batch, intake.CodeSaved, intake.CodeSaved)
	again := newBatch("a", "b")
	waitFor(t, submit(t, q, again))
	wantCodes(t, again, intake.CodeDuplicateOfSaved, intake.CodeDuplicateOfSaved)
	r.wantAllAcked(t)
}

func (r *rig) wantAllAcked(t *testing.T) {
	t.Helper()
	for _, lane := range queue.LaneNames() {
		localtest.Eventually(t, "every message is acknowledged", func() bool {
			consumer, err := r.js.Consumer(t.Context(), queue.StreamName, queue.ConsumerName(lane))
			return err == nil && consumer.CachedInfo().NumAckPending == 0 && consumer.CachedInfo().NumPending == 0
		})
	}
}

// Messages that can't be read go to the dead letters with the reason. Those of
// a newer version stay. Neither keeps others from being saved.
func TestWorker_UnreadableMessages(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, queue.Options{})
	for subject, data := range map[string]string{
		queue.SubjectPrefix + "waiting.acme.x.0": "\x01rubbish",
		queue.SubjectPrefix + "waiting.acme.y.0": "\x7fnewer",
	} {
		if _, err := r.js.Publish(t.Context(), subject, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	start(t, r.worker(t, Options{}).Run)
	batch := newBatch("a")
	waitFor(t, submit(t, q, batch))
	wantCodes(t, batch, intake.CodeSaved)

	dead, err := r.js.Stream(t.Context(), queue.DeadStreamName)
	if err != nil {
		t.Fatal(err)
	}
	var letter *jetstream.RawStreamMsg
	localtest.Eventually(t, "the dead letter is there", func() bool {
		letter, err = dead.GetMsg(t.Context(), 1)
		return err == nil
	})
	want := []string{"\x01rubbish", queue.SubjectPrefix + "waiting.acme.x.0"}
	if diff := cmp.Diff(want, []string{string(letter.Data), letter.Header.Get(subjectHeader)}); diff != "" {
		t.Errorf("data and subject of the dead letter: -want +got\n%s", diff)
	}
	if letter.Header.Get(reasonHeader) == "" {
		t.Error("the dead letter has no reason")
	}
	if _, err := dead.GetMsg(t.Context(), 2); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("a second dead letter: %v", err)
	}
	consumer, err := r.js.Consumer(t.Context(), queue.StreamName, queue.ConsumerName(queue.WaitingLane))
	if err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "only the newer message is left", func() bool {
		info, err := consumer.Info(t.Context())
		return err == nil && info.NumAckPending == 1 && info.NumPending == 0
	})
}

// A faultyStore can't save a chunk for as long as it has a given client.
type faultyStore struct {
	Store
	mu  sync.Mutex
	bad string
}

func (s *faultyStore) heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad = ""
}

func (s *faultyStore) Save(ctx context.Context, chunks []*intake.Chunk) (intake.Saved, error) {
	s.mu.Lock()
	bad := s.bad
	s.mu.Unlock()
	for _, chunk := range chunks {
		for i := range chunk.Clients {
			if chunk.Clients[i].ID == bad {
				return intake.Saved{}, errors.New("out of order")
			}
		}
	}
	return s.Store.Save(ctx, chunks)
}

// A chunk that the store can't save now keeps no others from being saved for
// ever, and is saved when the store can.
func TestWorker_OneChunkCannotBeSaved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, queue.Options{Ledger: silentLedger{r.store}})
	bad, good := newBatch("bad"), newBatch("good")
	badTicket, goodTicket := submit(t, q, bad), submit(t, q, good)
	store := &faultyStore{Store: r.store, bad: "bad"}
	w := r.worker(t, Options{Store: store})
	w.patience = 100 * time.Millisecond
	start(t, w.Run)
	waitFor(t, goodTicket)
	wantCodes(t, good, intake.CodeSaved)
	store.heal()
	waitFor(t, badTicket)
	wantCodes(t, bad, intake.CodeSaved)
}

// A worker that is stopped hands back what it holds, and another one gets it at
// once, not after the ack wait.
func TestWorker_HandsBackWhenStopped(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, queue.Options{Ledger: silentLedger{r.store}})
	batch := newBatch("a")
	ticket := submit(t, q, batch)
	stuck := r.worker(t, Options{Store: &faultyStore{Store: r.store, bad: "a"}, AckWait: time.Hour})
	stop := start(t, stuck.Run)
	localtest.Eventually(t, "the worker holds the message", func() bool { return len(stuck.backlog.messages()) == 1 })
	stop()
	start(t, r.worker(t, Options{AckWait: time.Hour}).Run)
	waitFor(t, ticket)
	wantCodes(t, batch, intake.CodeSaved)
}

// A stream and a consumer that are gone are made again.
func TestWorker_StreamLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	start(t, r.worker(t, Options{}).Run)
	q := r.queue(t, r.nc, queue.Options{})
	localtest.Eventually(t, "the consumer is there", func() bool {
		_, err := r.js.Consumer(t.Context(), queue.StreamName, queue.ConsumerName(queue.WaitingLane))
		return err == nil
	})
	if err := r.js.DeleteStream(t.Context(), queue.StreamName); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "the consumer is there again", func() bool {
		_, err := r.js.Consumer(t.Context(), queue.StreamName, queue.ConsumerName(queue.WaitingLane))
		return err == nil
	})
	batch := newBatch("a")
	waitFor(t, submit(t, q, batch))
	wantCodes(t, batch, intake.CodeSaved)
}

// The log drops what is processed when it is old, or when half of the room is
// full, and never what is not.
func TestWorker_PurgeProcessed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker(t, Options{Keep: time.Hour})
	if _, err := queue.SetUp(t.Context(), w.js, queue.StreamOptions{MaxBytes: 1 << 20}, time.Hour); err != nil {
		t.Fatal(err)
	}
	publish := func(n int) {
		for range n {
			if _, err := w.js.Publish(t.Context(), queue.SubjectPrefix+"waiting.acme.x.0",
				make([]byte, 100<<10)); err != nil {
				t.Fatal(err)
			}
		}
	}
	// process acknowledges n messages.
	process := func(n int) {
		t.Helper()
		consumer, err := w.js.Consumer(t.Context(), queue.StreamName, queue.ConsumerName(queue.WaitingLane))
		if err != nil {
			t.Fatal(err)
		}
		batch, err := consumer.Fetch(n)
		if err != nil {
			t.Fatal(err)
		}
		for msg := range batch.Messages() {
			if err := msg.DoubleAck(t.Context()); err != nil {
				t.Fatal(err)
			}
			n--
		}
		if n != 0 || batch.Error() != nil {
			t.Fatalf("%d are missing: %v", n, batch.Error())
		}
	}
	want := func(what string, first, msgs uint64) {
		t.Helper()
		if err := w.purgeProcessed(t.Context()); err != nil {
			t.Fatal(err)
		}
		info, err := r.stream(t).Info(t.Context())
		if err != nil || info.State.FirstSeq != first || info.State.Msgs != msgs {
			t.Errorf("%s: %d messages from %d, want %d from %d (%v)",
				what, info.State.Msgs, info.State.FirstSeq, msgs, first, err)
		}
	}
	publish(4)
	process(4)
	want("processed, and less than half full", 1, 4)
	publish(5)
	want("more than half full: only the processed ones go", 5, 5)
	process(5)
	want("half is enough", 5, 5)
	w.opts.Keep = time.Nanosecond
	publish(1)
	want("all are old, one is not processed", 10, 1)
	process(1)
	for _, lane := range []string{"later-3", queue.WaitingLane} {
		if _, err := w.js.Publish(t.Context(), queue.SubjectPrefix+lane+".acme.x.0", nil); err != nil {
			t.Fatal(err)
		}
	}
	process(1)
	want("one of another lane is not processed", 11, 2)
}

// What no consumer is to deliver, as a later version's lane before its workers have come,
// counts as not processed; so does what a later version's consumer has not processed.
func TestWorker_PurgeKeepsOtherVersionsLanes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker(t, Options{Keep: time.Nanosecond})
	consumers, err := queue.SetUp(t.Context(), w.js, queue.StreamOptions{MaxBytes: 64 << 20}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	publish := func(lane string) {
		t.Helper()
		if _, err := w.js.Publish(t.Context(), queue.SubjectPrefix+lane+".acme.x.0", make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	process := func(consumer jetstream.Consumer) {
		t.Helper()
		msg, err := consumer.Next()
		if err == nil {
			err = msg.DoubleAck(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, first uint64) {
		t.Helper()
		if err := w.purgeProcessed(t.Context()); err != nil {
			t.Fatal(err)
		}
		info, err := r.stream(t).Info(t.Context())
		if err != nil || info.State.FirstSeq != first {
			t.Errorf("%s: the log begins at %d, want %d (%v)", what, info.State.FirstSeq, first, err)
		}
	}
	for _, lane := range []string{queue.WaitingLane, "urgent", queue.WaitingLane} {
		publish(lane)
	}
	process(consumers[0])
	process(consumers[0])
	want("no consumer has the lane", 2)
	urgent, err := r.stream(t).CreateConsumer(t.Context(), jetstream.ConsumerConfig{
		Durable: queue.ConsumerName("urgent"), FilterSubject: queue.SubjectPrefix + "urgent.>",
		AckPolicy: jetstream.AckExplicitPolicy,
	})
	if err != nil {
		t.Fatal(err)
	}
	want("its consumer has not processed it", 2)
	process(urgent)
	want("all is processed", 4)
}

// The age of the oldest message that isn't processed grows while nothing comes, and is 0
// when all is processed.
func TestWorker_AgeOfTheOldest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.worker(t, Options{})
	consumers, err := queue.SetUp(t.Context(), w.js, queue.StreamOptions{MaxBytes: 64 << 20}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ages := func() (waiting, later float64) {
		t.Helper()
		if err := w.measureAge(t.Context()); err != nil {
			t.Fatal(err)
		}
		return testutil.ToFloat64(w.metrics.age.WithLabelValues(queue.WaitingLane)),
			testutil.ToFloat64(w.metrics.age.WithLabelValues(laterLanes))
	}
	if waiting, later := ages(); waiting != 0 || later != 0 {
		t.Errorf("%v s and %v s of an empty log", waiting, later)
	}
	for n, lane := range queue.LaneNames()[:2] {
		if _, err := w.js.Publish(t.Context(), queue.SubjectPrefix+lane+".acme.x.0", nil); err != nil {
			t.Fatal(err)
		}
		localtest.Eventually(t, "one of them is old", func() bool {
			waiting, later := ages()
			return waiting > 0.1 && (n == 0) == (later == 0) || later > 0.1
		})
	}
	for _, consumer := range consumers[:2] {
		msg, err := consumer.Next()
		if err != nil {
			t.Fatal(err)
		}
		before, _ := ages()
		localtest.Eventually(t, "it grows while a worker has it", func() bool {
			waiting, later := ages()
			return waiting > before || later > 0.1
		})
		if err := msg.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if waiting, later := ages(); waiting != 0 || later != 0 {
		t.Errorf("%v s and %v s though all is processed", waiting, later)
	}
}
