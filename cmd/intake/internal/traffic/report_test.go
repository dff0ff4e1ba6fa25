package traffic

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// At a rate, latency counts from when a batch was due: the first one a pause
// after the beginning, as the load library paces them.
func TestReport_LatencyAtARate(t *testing.T) {
	const rate, pause = 4.0, 250 * time.Millisecond
	for _, test := range []struct {
		name string
		late time.Duration // sent so much after it was due
		want float64       // ms
	}{
		{"in time", 0, 10}, {"late", 90 * time.Millisecond, 100}, {"early", -5 * time.Millisecond, 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newReport(rate, false)
			for seq := range uint64(3) {
				due := r.Began.Add(time.Duration(seq+1) * pause)
				r.add(&vegeta.Result{Seq: seq, Code: http.StatusOK, Timestamp: due.Add(test.late),
					Latency: 10 * time.Millisecond}, sending{})
			}
			r.refresh()
			if got := r.Latency; got.P50 < test.want*0.99 || got.Max > test.want*1.01 {
				t.Errorf("%+v, want %v ms", got, test.want)
			}
		})
	}
}

// Who is told to come again later does, and the pause is no latency.
func TestReplay_RetryAfter(t *testing.T) {
	var refused, taken atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/oauth/token":
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"access_token":"any","token_type":"Bearer","expires_in":3600}`)
		case refused.Add(1) == 1:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			taken.Add(1)
			fmt.Fprint(w, `{"status":"Completed","result":[{"status":{"state":"Completed","code":"saved","validation_errors":""}}]}`)
		}
	}))
	defer server.Close()
	batch := NewTemplate([]byte(`[{"partner_client_id":"a"}]`))
	began := time.Now()
	report, err := Replay(t.Context(), ReplayOptions{URL: server.URL, ClientID: "acme", ClientSecret: "secret",
		Batches: []*Template{batch}, Loop: 3, Concurrency: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if report.Requests != 3 || report.Items != 2 || report.Statuses["503"] != 1 || taken.Load() != 2 {
		t.Errorf("%+v", report)
	}
	if elapsed := time.Since(began); elapsed < time.Second || report.Latency.Max >= 1_000 {
		t.Errorf("%s have passed, latency %+v", elapsed, report.Latency)
	}
}
