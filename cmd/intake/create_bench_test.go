package main

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"intake"
	"intake/deploy/local/localtest"
)

// How many items and claims are saved a second, from POST to commit: batches of
// new clients with twelve monthly claims each, 16 at a time, on a Postgres that
// syncs. The load comes from the same machine and process.
func BenchmarkCreate(b *testing.B) {
	for _, size := range []int{1, 100, 1_000} {
		b.Run(fmt.Sprintf("%dx12", size), func(b *testing.B) {
			s := startStack(b, stackOptions{flags: serverFlags{PostgresURL: localtest.OwnPostgres(b).URL(), QueueMaxBytes: 4 << 30}})
			s.benchmark(b, size)
		})
	}
}

const (
	benchConcurrency = 16
	benchClaims      = 12
)

func (s *stack) benchmark(b *testing.B, size int) {
	f := s.fronts[0]
	client := s.client(b.Context(), f, "acme", s.secret)
	template := benchBatch(size)
	var sent atomic.Int64
	var senders sync.WaitGroup
	b.ResetTimer()
	for range benchConcurrency {
		senders.Go(func() {
			body := bytes.Clone(template)
			for {
				n := sent.Add(1)
				if n > int64(b.N) {
					return
				}
				freshen(body, int(n)*size)
				a, err := post(b.Context(), client, f, body, "return=minimal")
				if err != nil || a.http != http.StatusOK || a.Result[size-1].Status.Code != intake.CodeSaved {
					b.Errorf("%+v %v", a, err)
					return
				}
			}
		})
	}
	senders.Wait()
	b.StopTimer()
	items := float64(b.N*size) / b.Elapsed().Seconds()
	b.ReportMetric(items, "items/s")
	b.ReportMetric(items*benchClaims, "claims/s")
	if n := s.count(b, "select count(*) from partner_clients"); n < b.N*size {
		b.Errorf("%d clients are saved of %d", n, b.N*size)
	}
}

// keyDigits is what freshen writes a number over.
const keyDigits = "000000000000"

func benchBatch(size int) []byte {
	const layout = "2006-01-02T15:04:05.000Z"
	body := []byte{'['}
	for i := range size {
		if i > 0 {
			body = append(body, ',')
		}
		body = fmt.Appendf(body, `{"partner_client_id":"client-%s","client_start_date":"2024-04-23T13:44:03.585Z","entity_type":"SoleTrader",`+
			`"other_identifiers":[{"key":"MerchantId","values":["123456"]}],"revenue_claims":[`, keyDigits)
		for month := range benchClaims {
			start := time.Date(2025, time.January+time.Month(month), 1, 0, 0, 0, 0, time.UTC)
			if month > 0 {
				body = append(body, ',')
			}
			body = fmt.Appendf(body, `{"start_date":%q,"end_date":%q,"time_period":"Monthly","currency":"GBP","total_amount":%d.25,"transaction_count":%d}`,
				start.Format(layout), start.AddDate(0, 1, 0).Add(-time.Millisecond).Format(layout), 1000+17*i+month, 1+month)
		}
		body = append(body, ']', '}')
	}
	return append(body, ']')
}

// freshen gives each item of a body a key of its own, counted from a number.
func freshen(body []byte, first int) {
	mark := []byte(`"client-`)
	for rest := body; ; first++ {
		at := bytes.Index(rest, mark)
		if at < 0 {
			return
		}
		digits := rest[at+len(mark) : at+len(mark)+len(keyDigits)]
		number := strconv.Itoa(first)
		copy(digits, keyDigits)
		copy(digits[len(digits)-len(number):], number)
		rest = rest[at+len(mark)+len(keyDigits):]
	}
}
