package queue_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"

	"intake"
	"intake/internal/local"
	"intake/worker"
	"intake/worker/queue"
)

// A memory is a data store that keeps nothing but the IDs of clients: the worker's Store and the
// queue's Ledger.
type memory struct {
	mu    sync.Mutex
	saved map[string]bool
}

func (m *memory) Save(_ context.Context, chunks []*intake.Chunk) (saved intake.Saved, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, chunk := range chunks {
		outcome := intake.Outcome{Batch: chunk.Batch, Chunk: chunk.Number, First: chunk.First, Len: chunk.Len}
		for _, client := range chunk.Clients {
			if m.saved[client.ID] {
				verdict := intake.ItemVerdict{Item: client.Item, Verdict: intake.DuplicateOfSaved(true)}
				outcome.NotSaved = append(outcome.NotSaved, verdict)
			}
			m.saved[client.ID] = true
		}
		saved.Outcomes = append(saved.Outcomes, outcome)
	}
	return saved, nil
}

func (m *memory) Ping(context.Context) error { return nil }

func (m *memory) Outcomes(context.Context, []uuid.UUID) ([]intake.Outcome, error) { return nil, nil }

func (m *memory) Withdraw(context.Context, []*intake.Chunk, *intake.Holder) (bool, error) {
	return false, fmt.Errorf("not kept in memory")
}

// A batch is queued, and its ticket waits until a worker has saved it.
func ExampleQueue_Submit() {
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

	store := &memory{saved: map[string]bool{"a": true}}
	stream := queue.StreamOptions{MaxBytes: 64 << 20}
	front, err := queue.New(nc, queue.Options{Ledger: store, Stream: stream})
	if err != nil {
		panic(err)
	}
	saver, err := worker.New(nc, worker.Options{Store: store, Stream: stream})
	if err != nil {
		panic(err)
	}
	running, stop := context.WithCancel(ctx)
	var parts sync.WaitGroup
	for _, run := range []func(context.Context) error{front.Run, saver.Run} {
		parts.Go(func() {
			if err := run(running); err != nil {
				panic(err)
			}
		})
	}
	defer parts.Wait()
	defer stop()
	for front.Ready(ctx) != nil {
		time.Sleep(10 * time.Millisecond)
	}

	batch := &intake.Batch{
		Partner:  intake.Partner{ID: 1, Name: "acme", Currency: "GBP"},
		Verdicts: make([]intake.Verdict, 2),
	}
	for i, id := range []string{"a", "b"} {
		batch.Items = append(batch.Items, intake.Item{
			Raw: []byte(`{}`), Key: id, Client: intake.PartnerClient{Item: i, ID: id, EntityType: "SoleTrader"},
		})
	}
	ticket, err := front.Submit(ctx, batch, queue.Waiting)
	if err != nil {
		panic(err)
	}
	defer ticket.Release()
	fmt.Println("final:", ticket.Wait(ctx))
	for i, item := range batch.Items {
		fmt.Println(item.Key, batch.Verdicts[i].Code)
	}
	// Output:
	// final: true
	// a duplicate_of_saved
	// b saved
}
