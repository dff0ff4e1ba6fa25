package traffic

import "testing"

func TestThreshold(t *testing.T) {
	report := newReport(0, false)
	report.Seconds, report.Requests, report.Items = 10, 5_000, 20_000
	report.Statuses["200"], report.Statuses["202"], report.Statuses["503"] = 4_000, 900, 100
	report.Latency = Latency{P50: 2.5, P90: 40, P99: 612.3, P999: 900, Max: 1_500}
	for text, want := range map[string]string{
		"p99>500ms":     "p99 is 612 ms (--fail-if 'p99>500ms')",
		"p99 > 1s":      "",
		"p50<3ms":       "p50 is 2.5 ms (--fail-if 'p50<3ms')",
		"p90>40ms":      "",
		"p99.9>0.1s":    "p99.9 is 900 ms (--fail-if 'p99.9>0.1s')",
		"slowest>1s":    "slowest is 1,500 ms (--fail-if 'slowest>1s')",
		"failed>0":      "failed is 100 (--fail-if 'failed>0')",
		"failed>1%":     "failed is 2 % (--fail-if 'failed>1%')",
		"failed>2%":     "",
		"rate<1000":     "rate is 500 batches/s (--fail-if 'rate<1000')",
		"items/s<2000":  "",
		"items/s<2001":  "items/s is 2,000 items/s (--fail-if 'items/s<2001')",
		" failed > 99 ": "failed is 100 (--fail-if 'failed > 99')",
	} {
		var threshold Threshold
		if err := threshold.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if said, crossed := threshold.Crossed(report); crossed != (want != "") || crossed && said != want {
			t.Errorf("%s: %q, %v; want %q", text, said, crossed, want)
		}
	}
	for _, text := range []string{"", "p99", "p98>1s", "p99>500", "p99>1%", "failed>many", "failed=0", "rate>5ms"} {
		if err := new(Threshold).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}
