package traffic

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"intake/internal/plot"
)

// A Threshold is a condition on which a replay fails, as in p99>500ms, failed>0,
// failed>1% or rate<1000.
type Threshold struct {
	text, metric string
	below        bool // fails below the bound, else above it
	bound        float64
}

// thresholdMetrics are what a threshold may be on, and in which unit.
var thresholdMetrics = map[string]struct {
	unit  string
	value func(*Report) float64
}{
	"p50":     {" ms", func(r *Report) float64 { return r.Latency.P50 }},
	"p90":     {" ms", func(r *Report) float64 { return r.Latency.P90 }},
	"p99":     {" ms", func(r *Report) float64 { return r.Latency.P99 }},
	"p99.9":   {" ms", func(r *Report) float64 { return r.Latency.P999 }},
	"slowest": {" ms", func(r *Report) float64 { return r.Latency.Max }},
	"failed":  {"", func(r *Report) float64 { return float64(r.Failed()) }},
	"failed%": {" %", func(r *Report) float64 { return 100 * float64(r.Failed()) / float64(max(r.Requests, 1)) }},
	"rate":    {" batches/s", func(r *Report) float64 { return float64(r.Requests) / max(r.Seconds, 1e-9) }},
	"items/s": {" items/s", (*Report).ItemsPerSecond},
}

var thresholdForm = regexp.MustCompile(`^\s*([a-z0-9./]+)\s*([<>])\s*([^\s]+)\s*$`)

// UnmarshalText parses a threshold.
func (t *Threshold) UnmarshalText(text []byte) error {
	parts := thresholdForm.FindStringSubmatch(string(text))
	if parts == nil {
		return fmt.Errorf("%q is no threshold: write it like p99>500ms, failed>0 or rate<1000", text)
	}
	*t = Threshold{text: strings.TrimSpace(string(text)), metric: parts[1], below: parts[2] == "<"}
	bound := parts[3]
	if percent, ok := strings.CutSuffix(bound, "%"); ok {
		t.metric, bound = t.metric+"%", percent
	}
	metric, ok := thresholdMetrics[t.metric]
	if !ok {
		known := strings.Join(slices.Sorted(maps.Keys(thresholdMetrics)), ", ")
		return fmt.Errorf("%q: there is no %s; there are %s", text, t.metric, known)
	}
	var err error
	if metric.unit == " ms" {
		var duration time.Duration
		duration, err = time.ParseDuration(bound)
		t.bound = float64(duration) / float64(time.Millisecond)
	} else {
		t.bound, err = strconv.ParseFloat(bound, 64)
	}
	if err != nil {
		return fmt.Errorf("%q: the bound: %w", text, err)
	}
	return nil
}

// Crossed reports whether a report crosses the threshold, and says by which value.
func (t Threshold) Crossed(r *Report) (said string, crossed bool) {
	metric := thresholdMetrics[t.metric]
	value := metric.value(r)
	name := strings.TrimSuffix(t.metric, "%")
	said = fmt.Sprintf("%s is %s%s (--fail-if '%s')", name, plot.Number(value), metric.unit, t.text)
	if t.below {
		return said, value < t.bound
	}
	return said, value > t.bound
}
