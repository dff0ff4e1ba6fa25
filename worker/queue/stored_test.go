package queue

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"intake"
	"intake/internal/local"
	"intake/internal/local/localtest"
)

// A batch's chunks are found wherever they are, in the log or among the dead letters,
// whole or in part, readable or not; and it takes no more room than what is found.
func TestSearch(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if _, err := SetUp(t.Context(), r.js, StreamOptions{MaxBytes: 64 << 20}, time.Minute); err != nil {
		t.Fatal(err)
	}
	q := r.queue(t, Options{})
	ids := make([]string, 2*MaxChunkItems+1)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	batch := newBatch(ids...)
	batch.Verdicts[0] = intake.Invalid("entity_type: required")
	ticket, err := q.Submit(t.Context(), batch, Later)
	if err != nil {
		t.Fatal(err)
	}
	batch.ID = ticket.ID()
	taken := int64(0)
	search := Search{Partner: batch.Partner, Batch: batch.ID,
		Room: func(bytes int64) bool { taken += bytes; return true }}
	check := func(what string, chunks []StoredChunk, err error, want ...int) {
		t.Helper()
		var got []int
		items := int64(0)
		for _, chunk := range chunks {
			got = append(got, chunk.Number)
			for _, item := range chunk.Items {
				items += int64(len(item))
			}
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: chunks %v, want %v (%v)", what, got, want, err)
		}
		if taken < items || taken > 4*items+1<<10 {
			t.Errorf("%s: %d bytes are taken for %d of items", what, taken, items)
		}
		taken = 0
	}
	chunks, err := q.Logged(t.Context(), search)
	check("in the log", chunks, err, 0, 1, 2)
	type part struct{ First, Len, Items, Rejected int }
	parts := func(chunks []StoredChunk) (parts []part) {
		for _, chunk := range chunks {
			parts = append(parts, part{chunk.First, chunk.Len, len(chunk.Items), len(chunk.Rejected)})
		}
		return parts
	}
	want := []part{
		{0, MaxChunkItems, MaxChunkItems, 1},
		{MaxChunkItems, MaxChunkItems, MaxChunkItems, 0},
		{2 * MaxChunkItems, 1, 1, 0},
	}
	if diff := cmp.Diff(want, parts(chunks)); diff != "" {
		t.Fatalf("in the log: -want +got\n%s", diff)
	}
	search.Skip = func(number int) bool { return number == 1 }
	search.Decided = func(int) bool { return true }
	chunks, err = q.Logged(t.Context(), search)
	check("without the second", chunks, err, 0, 2)
	if len(chunks) > 0 && len(chunks[0].Rejected) > 0 {
		t.Error("states that are known were read")
	}
	search.Skip, search.Decided = nil, nil

	// The first is purged; the others become dead letters that can't be read, the
	// last one not even where it belongs.
	subject := "later-1.acme." + batch.ID.String()
	place := appendNumber(appendNumber(appendNumber(nil, fieldNumber, 1), fieldChunks, 3), fieldPartner, 1)
	place = appendNumber(appendNumber(place, fieldFirst, MaxChunkItems), fieldLen, MaxChunkItems)
	damaged := appendMessage(nil, batch.ID, "", 0, nil, appendBytes(place, fieldRejected, []byte("rubbish")))
	for n, data := range [][]byte{damaged, {messageVersion + 1}} {
		if _, err := r.js.Publish(t.Context(), fmt.Sprintf("%s%s.%d", DeadSubjectPrefix, subject, n+1),
			data); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.stream(t).Purge(t.Context(), jetstream.WithPurgeSequence(2)); err != nil {
		t.Fatal(err)
	}
	chunks, err = q.Logged(t.Context(), search)
	check("after a purge", chunks, err, 1, 2)
	chunks, err = q.Buried(t.Context(), search)
	check("dead letters", chunks, err, 1, 2)
	if diff := cmp.Diff([]part{{MaxChunkItems, MaxChunkItems, 0, 0}, {}}, parts(chunks)); diff != "" {
		t.Errorf("of letters that cannot be read: -want +got\n%s", diff)
	}

	search.Partner.Name = "other"
	chunks, err = q.Buried(t.Context(), search)
	check("another partner's", chunks, err)
	search.Partner, search.Room = batch.Partner, func(bytes int64) bool { return bytes < LargestMessage }
	if _, err := q.Logged(t.Context(), search); err == nil {
		t.Error("a message is read without room for it")
	}
}

// The leader of the log's replicas is cut off from the others, which elect another one and
// store a batch. The server that is cut off must not deny the batch while it still takes
// itself for the leader.
func TestSearch_LeaderCutOff(t *testing.T) {
	t.Parallel()
	servers, cutOff := localtest.NATSClusterWithLinks(t, 3)
	queues := make([]*Queue, len(servers))
	for i, server := range servers {
		r := &rig{natsURL: server.URL(), nc: connect(t, server.URL())}
		queues[i] = r.queue(t, Options{Stream: StreamOptions{Replicas: 3}, PublishTimeout: time.Second})
	}
	var leader int
	localtest.Eventually(t, "the log has a leader", func() bool {
		stream, err := queues[0].js.Stream(t.Context(), StreamName)
		if err != nil {
			return false
		}
		leader = slices.IndexFunc(servers,
			func(s *local.NATS) bool { return s.Name() == stream.CachedInfo().Cluster.Leader })
		return leader >= 0
	})
	cutOff(leader)
	batch := newBatch("a")
	localtest.Eventually(t, "the others store a batch", func() bool {
		ticket, err := queues[(leader+1)%3].Submit(t.Context(), batch, Waiting)
		if err == nil {
			batch.ID = ticket.ID()
		}
		return err == nil
	})
	search := Search{Partner: batch.Partner, Batch: batch.ID, Room: func(int64) bool { return true }, Sure: true}
	short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if chunks, err := queues[leader].Logged(short, search); err == nil && len(chunks) == 0 {
		t.Error("the server that is cut off denies the batch")
	}
	// The others may change their leader while they elect one.
	has := func(server int, want int) func() bool {
		return func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			chunks, err := queues[server].Logged(ctx, search)
			if err == nil && len(chunks) != want {
				t.Fatalf("server %d has %d chunks of the batch, want %d", server, len(chunks), want)
			}
			return err == nil
		}
	}
	localtest.Eventually(t, "one of the others is sure of the batch", has((leader+1)%3, 1))
	search.Batch = uuid.Must(uuid.NewV7())
	localtest.Eventually(t, "the other one is sure that there is no such batch", has((leader+2)%3, 0))
}
