package queue

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"intake"
	"intake/internal/local/localtest"
)

func TestMain(m *testing.M) { localtest.Main(m) }

// A rig is a NATS and what tests need of it.
type rig struct {
	natsURL string
	nc      *nats.Conn
	js      jetstream.JetStream
	ledger  fakeLedger
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{natsURL: localtest.NATS(t)}
	r.nc = connect(t, r.natsURL)
	var err error
	if r.js, err = jetstream.New(r.nc); err != nil {
		t.Fatal(err)
	}
	return r
}

func connect(t *testing.T, url string) *nats.Conn {
	t.Helper()
	nc, err := Connect(url, t.Name(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// start runs something until the test ends.
func start(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// queue returns a running queue whose stream is there.
func (r *rig) queue(t *testing.T, opts Options) *Queue {
	t.Helper()
	return r.queueOver(t, r.nc, opts)
}

// queueOver is queue with another connection.
func (r *rig) queueOver(t *testing.T, nc *nats.Conn, opts Options) *Queue {
	t.Helper()
	if opts.Ledger == nil {
		opts.Ledger = &r.ledger
	}
	if opts.Stream.MaxBytes == 0 {
		opts.Stream.MaxBytes = 64 << 20
	}
	q, err := New(nc, opts)
	if err != nil {
		t.Fatal(err)
	}
	start(t, q.Run)
	localtest.Eventually(t, "the queue is ready", func() bool { return q.Ready(t.Context()) == nil })
	return q
}

func (r *rig) stream(t *testing.T) jetstream.Stream {
	t.Helper()
	stream, err := r.js.Stream(t.Context(), StreamName)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// wantMessages checks how many messages the log holds.
func (r *rig) wantMessages(t *testing.T, want uint64) {
	t.Helper()
	info, err := r.stream(t).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.State.Msgs != want {
		t.Errorf("the log holds %d messages, want %d", info.State.Msgs, want)
	}
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

func submit(t *testing.T, q *Queue, batch *intake.Batch) Ticket {
	t.Helper()
	ticket, err := q.Submit(t.Context(), batch, Waiting)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ticket.Release)
	return ticket
}

// A fakeLedger has the outcomes that a test sets, and withdraws every batch.
type fakeLedger struct {
	mu        sync.Mutex
	outcomes  []intake.Outcome
	withdrawn []uuid.UUID
	away      bool // Withdraw fails
}

func (l *fakeLedger) Outcomes(_ context.Context, batches []uuid.UUID) (found []intake.Outcome, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, outcome := range l.outcomes {
		if slices.Contains(batches, outcome.Batch) {
			found = append(found, outcome)
		}
	}
	return found, nil
}

func (l *fakeLedger) Withdraw(_ context.Context, chunks []*intake.Chunk, _ *intake.Holder) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		return false, errors.New("the data store is down")
	}
	for _, chunk := range chunks {
		l.withdrawn = append(l.withdrawn, chunk.Batch)
	}
	return true, nil
}
