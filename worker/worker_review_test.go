package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"intake"
)

// bulky gives a batch of items that take much memory and compress to almost nothing.
func bulky(n int, mark string) *intake.Batch {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprint(mark, "-", i)
	}
	batch := newBatch(ids...)
	identifiers := append(append([]byte(`[{"key":"k","values":["`), bytes.Repeat([]byte("a"), 1<<20)...), `"]}]`...)
	for i := range batch.Items {
		batch.Items[i].Raw = identifiers
		batch.Items[i].Client.OtherIdentifiers = identifiers
	}
	return batch
}

// stuckStore saves nothing until its context ends.
type stuckStore struct{}

func (stuckStore) Save(ctx context.Context, _ []*intake.Chunk) (intake.Saved, error) {
	<-ctx.Done()
	return intake.Saved{}, ctx.Err()
}

func (stuckStore) Ping(context.Context) error { return nil }

// What a worker holds is bounded in memory, not only in what it takes compressed.
func TestReview_BacklogBoundsMemory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, QueueOptions{Ledger: silentLedger{r.store}})
	const batches, each = 40, 12 // of 1 MiB: 480 MiB
	for n := range batches {
		q.submit(t, bulky(each, fmt.Sprint(n))).Release()
	}
	info, err := r.stream(t).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := r.worker(t, Options{Store: stuckStore{}, ShutdownTimeout: 100 * time.Millisecond})
	start(t, w.Run)
	held := func() (bytes int) {
		w.backlog.mu.Lock()
		defer w.backlog.mu.Unlock()
		for h := range w.backlog.held {
			for _, chunk := range h.chunks {
				for i := range chunk.Clients {
					bytes += len(chunk.Clients[i].OtherIdentifiers)
				}
			}
		}
		return bytes
	}
	most := 0
	for range 50 {
		time.Sleep(100 * time.Millisecond)
		most = max(most, held())
	}
	t.Logf("%d KiB in the stream, %d MiB held", info.State.Bytes>>10, most>>20)
	if most > 160<<20 {
		t.Errorf("the worker holds %d MiB, of messages of %d KiB", most>>20, info.State.Bytes>>10)
	}
}

// What a worker has taken in advance is handed back as well when it stops.
func TestReview_HandsBackWhatItHasTakenInAdvance(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, QueueOptions{Ledger: silentLedger{r.store}})
	var tickets []*Ticket
	for n := range 30 { // more items than a backlog has room for
		ids := make([]string, maxChunkItems)
		for i := range ids {
			ids[i] = fmt.Sprint(n, "-", i)
		}
		tickets = append(tickets, q.submit(t, newBatch(ids...)))
	}
	stuck := r.worker(t, Options{Store: stuckStore{}, AckWait: time.Hour, ShutdownTimeout: 100 * time.Millisecond})
	stop := start(t, stuck.Run)
	eventually(t, "the worker holds all, though its backlog is full", func() bool {
		stuck.backlog.mu.Lock()
		defer stuck.backlog.mu.Unlock()
		return len(stuck.backlog.held) == 30 && stuck.backlog.sizes[waitingLane].items == backlogBound.items
	})
	stop()
	start(t, r.worker(t, Options{AckWait: time.Hour}).Run)
	for i, ticket := range tickets {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		ok := ticket.Wait(ctx)
		cancel()
		if !ok {
			t.Fatalf("batch %d is not handed back until the ack wait is over", i)
		}
	}
}

// NATS stops reading, as a process that is stopped does: requests are refused in
// time all the same.
func TestReview_NATSDoesNotRead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	u, err := url.Parse(r.natsURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	var stopped atomic.Bool
	target := u.Host
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				client.Close()
				return
			}
			t.Cleanup(func() { client.Close(); server.Close() })
			go func() { _, _ = io.Copy(client, server) }()
			go func() {
				buffer := make([]byte, 4<<10)
				for {
					n, err := client.Read(buffer)
					if stopped.Load() {
						return
					}
					if _, werr := server.Write(buffer[:n]); err != nil || werr != nil {
						return
					}
				}
			}()
		}
	}()
	u.Host = listener.Addr().String()
	q := r.queue(t, connect(t, u.String()), QueueOptions{PublishTimeout: time.Second})
	stopped.Store(true)
	began := time.Now()
	results := make(chan error, 8)
	for n := range cap(results) {
		batch := newBatch("a")
		batch.Items[0].Client.ID = fmt.Sprint(n)
		noise := make([]byte, 3<<20)
		seed := uint64(n + 1)
		for i := range noise { // cannot be compressed
			seed = seed*6364136223846793005 + 1442695040888963407
			noise[i] = byte(seed >> 56)
		}
		batch.Items[0].Raw = noise
		go func() {
			_, err := q.Submit(t.Context(), batch, Waiting)
			results <- err
		}()
	}
	for range cap(results) {
		select {
		case err := <-results:
			t.Logf("%v: %v", time.Since(began).Round(time.Millisecond), err)
			if !errors.Is(err, ErrUnavailable) {
				t.Errorf("%v", err)
			}
		case <-time.After(20*time.Second - time.Since(began)):
			t.Fatal("a request is not answered after 20 s")
		}
	}
}

// A NATS that refuses the password for a while, as one that is being set up anew
// does, is connected to again when it no longer does.
func TestReview_NATSRefusesForAWhile(t *testing.T) {
	t.Parallel()
	run := func(port int, password string) *server.Server {
		s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, Username: "intake", Password: password,
			NoSigs: true, NoLog: true, StoreDir: filepath.Join(t.TempDir(), "nats")})
		if err != nil {
			t.Fatal(err)
		}
		go s.Start()
		if !s.ReadyForConnections(10 * time.Second) {
			t.Fatal("NATS is not ready")
		}
		return s
	}
	first := run(-1, "right")
	port := first.Addr().(*net.TCPAddr).Port
	nc := connect(t, fmt.Sprintf("nats://intake:right@127.0.0.1:%d", port))
	eventually(t, "connected", nc.IsConnected)
	first.Shutdown()
	first.WaitForShutdown()
	second := run(port, "wrong")
	time.Sleep(3 * time.Second)
	second.Shutdown()
	second.WaitForShutdown()
	third := run(port, "right")
	defer func() { third.Shutdown(); third.WaitForShutdown() }()
	eventually(t, "connected again", func() bool {
		if nc.IsClosed() {
			t.Fatal("the connection is closed for good")
		}
		return nc.IsConnected()
	})
}

// A store that is away for long makes no message a suspect: they are saved
// together when it is back.
func TestReview_StoreAwayForLong(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, QueueOptions{Ledger: silentLedger{r.store}})
	tickets := []*Ticket{q.submit(t, newBatch("a")), q.submit(t, newBatch("b"))}
	store := &awayStore{Store: r.store}
	store.away.Store(true)
	w := r.worker(t, Options{Store: store})
	w.patience = time.Millisecond
	start(t, w.Run)
	eventually(t, "many tries", func() bool { return store.tries.Load() >= 10 })
	store.away.Store(false)
	for _, ticket := range tickets {
		waitFor(t, ticket)
	}
	if n := testutil.ToFloat64(w.metrics.redelivered); n != 0 {
		t.Errorf("%v messages were handed back while the store was away", n)
	}
}

// An awayStore is one that can't be reached for a while.
type awayStore struct {
	Store
	away  atomic.Bool
	tries atomic.Int64
}

func (s *awayStore) Save(ctx context.Context, chunks []*intake.Chunk) (intake.Saved, error) {
	if s.tries.Add(1); s.away.Load() {
		return intake.Saved{}, errors.New("the store is away")
	}
	return s.Store.Save(ctx, chunks)
}

func (s *awayStore) Ping(ctx context.Context) error {
	if s.away.Load() {
		return errors.New("the store is away")
	}
	return s.Store.Ping(ctx)
}

// JetStream has stored only the first message of a batch, as one whose disk is
// full may: when it says so, the others are queued too.
func TestReview_PartOfABatchIsQueued(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue(t, r.nc, QueueOptions{})
	ids := make([]string, 2*maxChunkItems)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	batch := newBatch(ids...)
	chunks, datas, err := encode(batch, int(q.nc.MaxPayload()))
	if err != nil {
		t.Fatal(err)
	}
	base, err := newBase()
	if err != nil {
		t.Fatal(err)
	}
	msgs := q.messages(base, []*submission{{ticket: &Ticket{batch: batch}, topic: "waiting.acme", chunks: chunks, datas: datas}})
	deadline := time.Now().Add(10 * time.Second)
	if err := q.commit(msgs[:1], deadline); err != nil {
		t.Fatal(err)
	}
	if err := q.publishUntilKnown(&publication{chunks: chunks, msgs: msgs, deadline: deadline}); err != nil {
		t.Fatal(err)
	}
	if info, err := r.stream(t).Info(t.Context()); err != nil || info.State.Msgs != 2 {
		t.Errorf("%d messages are queued: %v", info.State.Msgs, err)
	}
}

// At shutdown a seen set that is away costs one wait, not one for each gathering
// that is still to be marked.
func TestReview_SeenSetAwayAtShutdown(t *testing.T) {
	t.Parallel()
	marker := new(awayMarker)
	w := newRig(t).worker(t, Options{Marker: marker})
	for range cap(w.marks) {
		w.marks <- intake.Saved{Keys: []intake.SavedKey{{ID: "a"}}}
	}
	close(w.marks)
	w.backlog.close()
	w.mark()
	if marker.asked != 1 {
		t.Errorf("it was asked %d times", marker.asked)
	}
}

type awayMarker struct{ asked int }

func (m *awayMarker) Mark(context.Context, string, []intake.SavedKey) error {
	m.asked++
	return errors.New("the seen set is away")
}
