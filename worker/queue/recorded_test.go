package queue

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"intake"
	"intake/internal/decode"
)

var record = flag.String("record", "", "write messages as they are now to testdata/recorded, with names that begin so")

const recorded = "testdata/recorded"

// Messages that were recorded as earlier versions have queued them (1 and 2 by
// some that knew fewer fields), with what those read of them, are read alike by
// this one. Package worker checks that they are saved.
func TestRecordedMessages(t *testing.T) {
	t.Parallel()
	if *record != "" {
		recordMessages(t, *record)
	}
	files, err := filepath.Glob(filepath.Join(recorded, "*.msg"))
	if err != nil || len(files) < 6 {
		t.Fatalf("%d messages (%v)", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(strings.TrimSuffix(file, ".msg") + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var want []*intake.Chunk
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		got, _, err := ReadMessage(data)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		isKeys := func(p cmp.Path) bool { return p.Last().String() == ".RejectedKeys" }
		knowsFewer := cmp.FilterPath(isKeys, cmp.Comparer(func(got, want []string) bool {
			return want == nil || cmp.Equal(got, want)
		}))
		if diff := cmp.Diff(got, want, cmpopts.EquateEmpty(), knowsFewer); diff != "" {
			t.Errorf("%s: %s", file, diff)
		}
	}
}

// recordMessages writes a message that several batches share, and one of a batch
// with an Idempotency-Key, and what is read of them.
func recordMessages(t *testing.T, prefix string) {
	t.Helper()
	base := func() uuid.UUID {
		id, err := newBase()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	data := func(name string, n int) []byte {
		_, datas, err := encode(recordedBatch(prefix+name, n), 8<<20)
		if err != nil || len(datas) != 1 {
			t.Fatalf("%d chunks (%v)", len(datas), err)
		}
		return datas[0]
	}
	holder := &intake.Holder{Key: "order-1", BodyHash: [32]byte{1, 2, 3}}
	several := appendMessage(nil, base(), outcomePrefix+"x", 0, nil, data("one", 7))
	for name, message := range map[string][]byte{
		"several": appendChunks(several, 1, nil, data("two", 4)),
		"key":     appendMessage(nil, base(), "", 0, holder, data("large", 9)),
	} {
		chunks, _, err := ReadMessage(message)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.MarshalIndent(chunks, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(recorded, prefix+name)
		if err := os.WriteFile(file+".msg", message, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file+".json", append(text, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// recordedBatch has items with and without all that is optional, and some that
// were rejected.
func recordedBatch(name string, n int) *intake.Batch {
	at := func(day int) intake.Timestamp {
		return intake.Timestamp(time.Date(2025, 1, day, 0, 0, 0, 0, time.UTC).UnixMicro())
	}
	b := &intake.Batch{Partner: intake.Partner{ID: 1, Name: "acme", Currency: "GBP"}, Verdicts: make([]intake.Verdict,
		n)}
	for i := range n {
		id := fmt.Sprintf("%s-%d", name, i)
		raw := fmt.Appendf(nil, `{"partner_client_id":%q}`, id)
		item := intake.Item{Raw: raw, Key: id}
		if i%5 == 3 {
			b.Verdicts[i] = intake.Invalid("entity_type: required")
			b.Items = append(b.Items, item)
			continue
		}
		item.Client = intake.PartnerClient{
			Item: i, ID: id, EntityType: "SoleTrader", StartDate: intake.NoTimestamp,
			Fingerprint: decode.Fingerprint(raw),
		}
		if i%2 == 0 {
			item.Client.StartDate, item.Client.OtherIdentifiers = at(3),
				[]byte(`[{"key":"MerchantId","values":["1","ü"]}]`)
		}
		for day := range i % 3 {
			item.Client.Claims = append(item.Client.Claims, intake.RevenueClaim{
				Start: at(day + 1), End: at(day+2) - 1000, Period: intake.Daily,
				TotalAmount:      intake.Amount{Abs: 9_999_999_999_999_999_999, Neg: day > 0},
				TransactionCount: int64(1_000_000_000_000 * (1 - 2*day)),
			})
		}
		b.Items = append(b.Items, item)
	}
	return b
}
