package front_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"intake"
	"intake/cmd/intake/internal/front"
	"intake/worker/queue"
)

// A benchQueue saves everything immediately, and keeps nothing.
type benchQueue struct {
	fakeQueue
	id uuid.UUID
}

func (q *benchQueue) Submit(_ context.Context, batch *intake.Batch, _ queue.Lane) (queue.Ticket, error) {
	saveAll(batch)
	return &fakeTicket{id: q.id, wait: func(context.Context) bool { return true }}, nil
}

// A discarding response writer takes an answer and keeps nothing of it.
type discarding struct{ header http.Header }

func (d discarding) Header() http.Header            { return d.header }
func (discarding) WriteHeader(int)                  {}
func (discarding) Write(b []byte) (int, error)      { return len(b), nil }
func (discarding) SetReadDeadline(time.Time) error  { return nil }
func (discarding) SetWriteDeadline(time.Time) error { return nil }

// BenchmarkCreate answers batches of clients with 12 months each, without a server, a queue
// or a seen set.
func BenchmarkCreate(b *testing.B) {
	for _, items := range []int{1, 100, 1000} {
		for _, prefer := range []string{"return=minimal", ""} {
			b.Run(fmt.Sprintf("items=%d/%s", items, prefer), func(b *testing.B) {
				f := newFront(b, func(o *front.Options) {
					o.Queue, o.Logger = &benchQueue{id: uuid.Must(uuid.NewV7())}, zap.NewNop()
				})
				token, body := f.token(b), monthsOfClaims(items)
				b.ReportAllocs()
				b.SetBytes(int64(len(body)))
				for b.Loop() {
					request := f.create(b, token, bytes.NewReader(body), "Prefer", prefer)
					f.ServeHTTP(discarding{http.Header{}}, request)
				}
			})
		}
	}
}

// monthsOfClaims returns a batch of items with 12 monthly claims each.
func monthsOfClaims(items int) []byte {
	var b strings.Builder
	for i := range items {
		fmt.Fprintf(&b, `%c{"partner_client_id":"1b7901db-4879-4616-8052-%012d","client_start_date":"2024-04-23T13:44:03.585Z",`+
			`"entity_type":"SoleTrader","other_identifiers":[{"key":"MerchantId","values":["%d"]}],"revenue_claims":[`,
			"[,"[min(i, 1)], i, 100_000+i)
		for m := range 12 {
			start := time.Date(2024, time.Month(1+m), 1, 0, 0, 0, 0, time.UTC)
			end := start.AddDate(0, 1, 0).Add(-time.Millisecond)
			fmt.Fprintf(&b, `%.*s{"start_date":"%s","end_date":"%s","time_period":"Monthly","currency":"GBP",`+
				`"total_amount":%d.%02d,"transaction_count":%d}`, min(m, 1), ",",
				start.Format("2006-01-02T15:04:05.000Z"), end.Format("2006-01-02T15:04:05.000Z"), 30_000+i, m, 150+m)
		}
		b.WriteString("]}")
	}
	return []byte(b.String() + "]")
}
