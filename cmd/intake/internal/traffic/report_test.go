package traffic

import (
	"net/http"
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
				r.add(&vegeta.Result{Seq: seq, Code: http.StatusOK, Timestamp: due.Add(test.late), Latency: 10 * time.Millisecond}, sending{})
			}
			r.refresh()
			if got := r.Latency; got.P50 < test.want*0.99 || got.Max > test.want*1.01 {
				t.Errorf("%+v, want %v ms", got, test.want)
			}
		})
	}
}
