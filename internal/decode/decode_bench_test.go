package decode_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"intake"
	"intake/internal/decode"
)

// now is the moment at which the tests' batches arrive.
var now = time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)

var gbp = &intake.Partner{ID: 1, Name: "demo", Currency: "GBP"}

// monthsOfClaims returns the JSON text of a batch of items with a number of monthly
// claims each.
func monthsOfClaims(items, months int) []byte {
	var b strings.Builder
	for i := range items {
		b.WriteByte(',')
		fmt.Fprintf(&b, `{"partner_client_id":"1b7901db-4879-4616-8052-%012d","client_start_date":"2024-04-23T13:44:03.585Z",`+
			`"entity_type":"SoleTrader","other_identifiers":[{"key":"MerchantId","values":["%d"]}],"revenue_claims":[`,
			i, 100_000+i)
		for m := range months {
			start := time.Date(2024, time.Month(1+m), 1, 0, 0, 0, 0, time.UTC)
			end := start.AddDate(0, 1, 0).Add(-time.Millisecond)
			if m > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"start_date":"%s","end_date":"%s","time_period":"Monthly","currency":"GBP","total_amount":%d.%02d,"transaction_count":%d}`,
				start.Format("2006-01-02T15:04:05.000Z"), end.Format("2006-01-02T15:04:05.000Z"), 30_000+i, m, 150+m)
		}
		b.WriteString("]}")
	}
	return []byte("[" + b.String()[1:] + "]")
}

func BenchmarkBatch(b *testing.B) {
	body := monthsOfClaims(1000, 12)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		items, err := decode.Batch(body, gbp, now)
		if err != nil || items[999].Errors != "" {
			b.Fatal(err, items[999].Errors)
		}
	}
}

// The structs that a library decodes a batch into. Amounts stay exact as text.
type (
	plainItem[number any] struct {
		ID               string               `json:"partner_client_id"`
		StartDate        *time.Time           `json:"client_start_date"`
		EntityType       string               `json:"entity_type"`
		OtherIdentifiers []plainIdentifier    `json:"other_identifiers"`
		Claims           []plainClaim[number] `json:"revenue_claims"`
	}
	plainIdentifier struct {
		Key    string   `json:"key"`
		Values []string `json:"values"`
	}
	plainClaim[number any] struct {
		StartDate        time.Time `json:"start_date"`
		EndDate          time.Time `json:"end_date"`
		TimePeriod       string    `json:"time_period"`
		Currency         string    `json:"currency"`
		TotalAmount      number    `json:"total_amount"`
		TransactionCount int64     `json:"transaction_count"`
	}
)

// BenchmarkLibraries decodes the body of BenchmarkBatch into structs, and does nothing
// else that [decode.Batch] does: no validation, no paths of errors, no fingerprints.
func BenchmarkLibraries(b *testing.B) {
	body := monthsOfClaims(1000, 12)
	for name, decode := range map[string]func() (int, error){
		"encoding/json": func() (int, error) {
			var items []plainItem[json.Number]
			err := json.Unmarshal(body, &items)
			return len(items), err
		},
		"go-json-experiment": func() (int, error) {
			var items []plainItem[jsontext.Value]
			err := jsonv2.Unmarshal(body, &items)
			return len(items), err
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if n, err := decode(); err != nil || n != 1000 {
					b.Fatal(n, err)
				}
			}
		})
	}
}

func BenchmarkFingerprint(b *testing.B) {
	body := monthsOfClaims(1, 12)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		decode.Fingerprint(body)
	}
}
