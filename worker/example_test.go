package worker_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"

	"intake"
	"intake/internal/local"
	"intake/worker"
	"intake/worker/queue"
)

// A slowStore is a data store whose transactions take until goOn is closed.
type slowStore struct{ began, goOn chan struct{} }

func (s slowStore) Save(_ context.Context, chunks []*intake.Chunk) (saved intake.Saved, err error) {
	close(s.began)
	<-s.goOn
	for _, chunk := range chunks {
		saved.Outcomes = append(saved.Outcomes, intake.Outcome{
			Batch: chunk.Batch, Chunk: chunk.Number, First: chunk.First, Len: chunk.Len,
		})
	}
	return saved, nil
}

func (slowStore) Ping(context.Context) error { return nil }

func (slowStore) Outcomes(context.Context, []uuid.UUID) ([]intake.Outcome, error) { return nil, nil }

func (slowStore) Withdraw(context.Context, []*intake.Chunk, *intake.Holder) (bool, error) {
	return false, fmt.Errorf("not kept")
}

// A worker that is stopped finishes its transaction, and the front gets the outcome.
func ExampleWorker_Run() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "intake-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	nats, err := local.StartNATS(ctx, local.NATSOptions{Dir: dir})
	if err != nil {
		panic(err)
	}
	defer nats.Stop(context.WithoutCancel(ctx))
	nc, err := queue.Connect(nats.URL(), "example", nil)
	if err != nil {
		panic(err)
	}
	defer nc.Close()

	store := slowStore{began: make(chan struct{}), goOn: make(chan struct{})}
	stream := queue.StreamOptions{MaxBytes: 64 << 20}
	front, err := queue.New(nc, queue.Options{Ledger: store, Stream: stream})
	if err != nil {
		panic(err)
	}
	w, err := worker.New(nc, worker.Options{Store: store, Stream: stream, ShutdownTimeout: 10 * time.Second})
	if err != nil {
		panic(err)
	}
	serving, stopFront := context.WithCancel(ctx)
	frontEnded := make(chan error, 1)
	go func() { frontEnded <- front.Run(serving) }()
	working, stopWorker := context.WithCancel(ctx)
	defer stopWorker()
	workerEnded := make(chan error, 1)
	go func() { workerEnded <- w.Run(working) }()
	for front.Ready(ctx) != nil {
		time.Sleep(10 * time.Millisecond)
	}

	batch := &intake.Batch{
		Partner: intake.Partner{ID: 1, Name: "acme", Currency: "GBP"},
		Items: []intake.Item{{
			Raw: []byte(`{}`), Key: "a", Client: intake.PartnerClient{ID: "a", EntityType: "SoleTrader"},
		}},
		Verdicts: make([]intake.Verdict, 1),
	}
	ticket, err := front.Submit(ctx, batch, queue.Waiting)
	if err != nil {
		panic(err)
	}
	defer ticket.Release()

	<-store.began
	stopWorker() // as SIGTERM does
	fmt.Println("stopping; the item is", batch.Verdicts[0].Code)
	close(store.goOn)
	fmt.Println("worker ended:", <-workerEnded)
	fmt.Println("final:", ticket.Wait(ctx))
	fmt.Println("the item is", batch.Verdicts[0].Code)
	stopFront()
	<-frontEnded
	// Output:
	// stopping; the item is pending
	// worker ended: <nil>
	// final: true
	// the item is saved
}
