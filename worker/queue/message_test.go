package queue

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"intake"
)

func drawClient(t *rapid.T, item int) intake.PartnerClient {
	client := intake.PartnerClient{
		Item:       item,
		ID:         rapid.StringN(1, 128, -1).Draw(t, "id"),
		EntityType: rapid.StringMatching(`[A-Za-z][A-Za-z0-9]{0,10}`).Draw(t, "entity type"),
		StartDate:  intake.Timestamp(rapid.Int64().Draw(t, "start date")),
	}
	if rapid.Bool().Draw(t, "has identifiers") {
		client.OtherIdentifiers = []byte(`[{"key":"MerchantId","values":["1"]}]`)
	}
	copy(client.Fingerprint[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "fingerprint"))
	for range rapid.IntRange(0, 3).Draw(t, "claims") {
		amount := intake.Amount{Abs: rapid.Uint64Range(0, 1e19-1).Draw(t, "amount")}
		amount.Neg = amount.Abs > 0 && rapid.Bool().Draw(t, "negative")
		client.Claims = append(client.Claims, intake.RevenueClaim{
			Start: intake.Timestamp(rapid.Int64().Draw(t, "start")), End: math.MaxInt64,
			Period:      rapid.SampledFrom([]intake.Period{intake.Monthly, intake.Daily}).Draw(t, "period"),
			TotalAmount: amount, TransactionCount: rapid.Int64().Draw(t, "count"),
		})
	}
	return client
}

func drawBatch(t *rapid.T) *intake.Batch {
	batch := &intake.Batch{Partner: intake.Partner{ID: 7, Name: "acme", Currency: "GBP"}}
	n := rapid.IntRange(1, 40).Draw(t, "items")
	for i := range n {
		item := intake.Item{Raw: bytes.Repeat([]byte("x"), rapid.IntRange(1, 300).Draw(t, "length"))}
		var verdict intake.Verdict
		if rapid.IntRange(0, 3).Draw(t, "rejected") == 0 {
			verdict = intake.Invalid("entity_type: required")
		} else {
			item.Client = drawClient(t, i)
		}
		batch.Items = append(batch.Items, item)
		batch.Verdicts = append(batch.Verdicts, verdict)
	}
	return batch
}

// Whatever the bound on a message, what is read of all messages of a batch is
// what was to be queued: each item once, saved or rejected.
func TestMessages_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		batch := drawBatch(t)
		maxPayload := MessageOverhead + rapid.SampledFrom([]int{4 << 10, 16 << 10, 8 << 20}).Draw(t, "max payload")
		chunks, datas, err := encode(batch, maxPayload)
		if errors.Is(err, ErrTooLarge) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		base, index := uuid.Must(newBase()), rapid.IntRange(0, maxBatches-1).Draw(t, "index")
		var holder *intake.Holder
		if rapid.Bool().Draw(t, "keyed") {
			holder = &intake.Holder{Key: "key", BodyHash: [32]byte{1, 2, 3}}
		}
		next := 0
		for i, data := range datas {
			message := appendMessage(nil, base, "intake.outcome.x", index, holder, data)
			if len(message) > maxPayload {
				t.Fatalf("message of %d bytes, bound %d", len(message), maxPayload)
			}
			read, reply, err := ReadMessage(message)
			if err != nil || len(read) != 1 {
				t.Fatal(read, err)
			}
			chunk := read[0]
			chunks[i].Batch, chunks[i].Holder = nameBatch(base, index), holder
			if diff := cmp.Diff(chunks[i], chunk, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("chunk %d changed on its way (-queued +read):\n%s", i, diff)
			}
			type place struct {
				reply                 string
				number, chunks, first int
			}
			want, got := place{"intake.outcome.x", i, len(datas), next}, place{reply, chunk.Number, chunk.Chunks,
				chunk.First}
			if got != want {
				t.Fatalf("chunk %d is at %+v, want %+v", i, got, want)
			}
			if len(chunk.Clients)+len(chunk.Rejected) != chunk.Len {
				t.Fatalf("%d clients and %d rejected make no %d items", len(chunk.Clients), len(chunk.Rejected),
					chunk.Len)
			}
			next += chunk.Len
		}
		if next != len(batch.Items) {
			t.Fatalf("the chunks cover %d items of %d", next, len(batch.Items))
		}
	})
}

// Batches that share a message keep their own chunks and keys, and have IDs that lead to the message.
func TestMessage_SeveralBatches(t *testing.T) {
	base := uuid.Must(newBase())
	message := appendMessage(nil, base, "r", 0, &intake.Holder{Key: "k"}, encodeOne(t, "a"))
	message = appendChunks(message, 1, nil, encodeOne(t, "b"))
	message = appendChunks(message, maxBatches-1, nil, encodeOne(t, "c"))
	chunks, _, err := ReadMessage(message)
	if err != nil || len(chunks) != 3 {
		t.Fatal(chunks, err)
	}
	for i, want := range []struct {
		id    string
		index int
	}{{"a", 0}, {"b", 1}, {"c", maxBatches - 1}} {
		if chunks[i].Clients[0].ID != want.id || chunks[i].Batch != nameBatch(base, want.index) ||
			chunks[i].Batch.Version() != 7 {
			t.Errorf("chunk %d is of %s: %v", i, chunks[i].Batch, chunks[i].Clients)
		}
		if (chunks[i].Holder != nil) != (i == 0) {
			t.Errorf("chunk %d has the key %v", i, chunks[i].Holder)
		}
		if nameBatch(chunks[i].Batch, 0) != base {
			t.Errorf("the name of chunk %d does not lead to the message", i)
		}
	}
}

func encodeOne(t *testing.T, id string) []byte {
	t.Helper()
	_, datas, err := encode(newBatch(id), 8<<20)
	if err != nil || len(datas) != 1 {
		t.Fatal(len(datas), err)
	}
	return datas[0]
}

// The items as they were sent can be read from the message of their chunk, however
// large; only what doesn't fit into a message is not there.
func TestMessage_ItemsAsSent(t *testing.T) {
	raws := [][]byte{
		[]byte(`{"a":1}`), bytes.Repeat([]byte(" "), intake.MaxBodyBytes-1<<10), []byte(`{}`),
		incompressible(5 << 20), incompressible(LargestMessage),
	}
	batch := &intake.Batch{Partner: intake.Partner{ID: 1, Name: "acme", Currency: "GBP"}}
	for i, raw := range raws {
		batch.Items = append(batch.Items, intake.Item{Raw: raw, Client: intake.PartnerClient{Item: i}})
	}
	batch.Verdicts = make([]intake.Verdict, len(raws))
	batch.Verdicts[0] = intake.Invalid("x")
	chunks, datas, err := encode(batch, LargestMessage)
	if err != nil {
		t.Fatal(err)
	}
	raws[4] = []byte{}
	var got [][]byte
	for i, data := range datas {
		items, err := readItems(data)
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, items...); len(got) != chunks[i].First+chunks[i].Len {
			t.Fatalf("%d items after chunk %d", len(got), i)
		}
	}
	for i := range raws {
		if !bytes.Equal(got[i], raws[i]) {
			t.Errorf("item %d has %d bytes, was sent with %d", i, len(got[i]), len(raws[i]))
		}
	}
}

// A message of a newer version is not taken for a damaged one: a newer worker can read it.
func TestReadMessage_Versions(t *testing.T) {
	if _, _, err := ReadMessage([]byte{messageVersion + 1, 1, 2}); !errors.Is(err, ErrNewer) {
		t.Errorf("newer version: %v", err)
	}
	for name, data := range map[string][]byte{
		"empty": nil, "no version": {0}, "nothing in it": {messageVersion}, "cut short": {messageVersion, 10, 200},
	} {
		if _, _, err := ReadMessage(data); err == nil || errors.Is(err, ErrNewer) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A worker skips what a later front has added to a message.
func TestReadMessage_UnknownFields(t *testing.T) {
	chunk := appendNumber(appendBytes(encodeOne(t, "a"), 100, []byte("news")), 101, 5)
	message := appendMessage(nil, uuid.Must(newBase()), "", 0, nil, chunk)
	got, _, err := ReadMessage(appendNumber(appendBytes(message, 100, []byte("news")), 101, 5))
	if err != nil || len(got) != 1 || got[0].Clients[0].ID != "a" {
		t.Fatalf("%v %v", got, err)
	}
}

func FuzzReadMessage(f *testing.F) {
	chunk := &intake.Chunk{Chunks: 1, Partner: 1, Currency: "GBP", Len: 2,
		Clients:  []intake.PartnerClient{{ID: "a", Claims: make([]intake.RevenueClaim, 2)}},
		Rejected: []intake.ItemVerdict{{Item: 1, Verdict: intake.Invalid("x")}}, RejectedKeys: []string{"b"}}
	data := appendChunk(nil, chunk, make([]intake.Item, 2))
	f.Add(appendMessage(nil, uuid.Must(newBase()), "reply", 3, &intake.Holder{Key: "k"}, data))
	f.Fuzz(func(t *testing.T, data []byte) {
		chunks, _, err := ReadMessage(data)
		if err != nil {
			return
		}
		search := Search{Batch: chunks[0].Batch, Room: func(bytes int64) bool { return bytes < 64<<20 }}
		logged, err := search.appendChunk(nil, data, chunks[0].Number)
		if err != nil && !errors.Is(err, ErrNoRoom) {
			t.Fatal(err)
		}
		for _, l := range logged {
			if l.Batch != search.Batch || l.Items != nil && len(l.Items) != l.Len {
				t.Fatalf("%d items of chunk %d of %s, of %d", len(l.Items), l.Number, l.Batch, l.Len)
			}
		}
		for _, chunk := range chunks {
			if len(chunk.RejectedKeys) != len(chunk.Rejected) {
				t.Fatalf("%d keys of %d rejected items", len(chunk.RejectedKeys), len(chunk.Rejected))
			}
			if chunk.First < 0 || chunk.Len <= 0 || chunk.First+chunk.Len > intake.MaxBatchItems {
				t.Fatalf("read a chunk of %d items from %d", chunk.Len, chunk.First)
			}
		}
	})
}

// What a front hears of an outcome is all that it doesn't know: its own
// rejections don't travel back.
func TestOutcomes_RoundTrip(t *testing.T) {
	rejected := []intake.ItemVerdict{{Item: 3, Verdict: intake.Invalid("x")}}
	one := intake.Outcome{Batch: uuid.New(), Chunk: 1, First: 3, Len: 5, NotSaved: []intake.ItemVerdict{
		rejected[0], {Item: 4, Verdict: intake.DuplicateOfSaved(true)}}}
	two := intake.Outcome{Batch: uuid.New(), Len: 1}
	data := AppendOutcome(AppendOutcome(nil, one, rejected), two, nil)
	var got []intake.Outcome
	if err := readOutcomes(data, func(o intake.Outcome) { got = append(got, o) }); err != nil {
		t.Fatal(err)
	}
	one.NotSaved = one.NotSaved[1:]
	if diff := cmp.Diff([]intake.Outcome{one, two}, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatal(diff)
	}
}
