package front

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"intake"
)

// Any text comes out as JSON that says the same; what isn't UTF-8 as U+FFFD.
func FuzzAppendString(f *testing.F) {
	f.Add("")
	f.Add("plain \"quoted\" \\ \x00\x1f\x7f é \u2028 \U0001F600")
	f.Add("\xff\xed\xa0\x80a\xc3")
	f.Fuzz(func(t *testing.T, s string) {
		text := appendString(nil, s)
		var got string
		if err := json.Unmarshal(text, &got); err != nil || !utf8.Valid(text) {
			t.Fatalf("%q: %s: %v", s, text, err)
		}
		if want := string([]rune(s)); got != want {
			t.Errorf("%q came out as %q", s, got)
		}
	})
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) WriteHeader(int)             {}
func (discard) Write(b []byte) (int, error) { return len(b), nil }

// yearOf is a valid item with a year of months.
func yearOf(id string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"partner_client_id":"%s","client_start_date":"2024-04-23T13:44:03.585Z","entity_type":"SoleTrader","other_identifiers":[{"key":"MerchantId","values":["123456"]}],"revenue_claims":[`, id)
	for month := range 12 {
		if month > 0 {
			b.WriteByte(',')
		}
		days := []int{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}[month]
		fmt.Fprintf(&b, `{"start_date":"2025-%02d-01T00:00:00.000Z","end_date":"2025-%02[1]d-%dT23:59:59.999Z","time_period":"Monthly","currency":"GBP","total_amount":30000.25,"transaction_count":150}`, month+1, days)
	}
	b.WriteString("]}")
	return b.String()
}

func BenchmarkWriteAnswer(b *testing.B) {
	const items = 1_000
	batch := &intake.Batch{Items: make([]intake.Item, items), Verdicts: make([]intake.Verdict, items)}
	bytes := 0
	for i := range items {
		batch.Items[i].Raw = []byte(yearOf(fmt.Sprint("client-", i)))
		batch.Verdicts[i].Code = intake.CodeSaved
		if i%10 == 0 {
			batch.Verdicts[i] = intake.DuplicateOfSaved(false)
		}
		bytes += len(batch.Items[i].Raw)
	}
	budget := newBudget(minInflightBytes, prometheus.NewGauge(prometheus.GaugeOpts{}))
	for _, minimal := range []bool{false, true} {
		b.Run(fmt.Sprintf("1000 items, minimal %v", minimal), func(b *testing.B) {
			b.ReportAllocs()
			if !minimal {
				b.SetBytes(int64(bytes))
			}
			for b.Loop() {
				sent := *batch
				object := newObject(budget.memoryOf(1), &sent, true, minimal)
				if err := object.answer(discard{http.Header{}}, http.StatusOK); err != nil || !object.isMade() {
					b.Fatal(err)
				}
			}
		})
	}
}
