package traffic

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	vegeta "github.com/tsenart/vegeta/v12/lib"

	"intake"
)

// A Report is the result of a replay. Times are in seconds, but latencies in
// milliseconds: from the moment at which a batch was due, at a rate, or else was
// sent, to the end of its answer.
type Report struct {
	Began    time.Time      `json:"began"`
	Seconds  float64        `json:"seconds"`
	Requests int            `json:"requests"`
	Items    int            `json:"items"`
	Bytes    int64          `json:"bytes"`
	Codes    map[string]int `json:"codes"`
	// Statuses counts answers by HTTP status; 0 stands for none.
	Statuses map[string]int `json:"statuses"`
	Errors   []string       `json:"errors,omitempty"` // the first few different ones
	Latency  Latency        `json:"latency_ms"`
	// Refused is the latency of the answers 429 and 503, from when each was sent.
	Refused Latency `json:"refused_latency_ms"`
	// CPU is the time that the replay itself has used.
	CPU  float64 `json:"replay_cpu_seconds"`
	Rate float64 `json:"rate,omitempty"` // asked for, batches a second
	// Timeline has an entry a second.
	Timeline []Second `json:"timeline"`

	histogram *hdrhistogram.Histogram
	refused   *hdrhistogram.Histogram
	second    *hdrhistogram.Histogram // of the last entry of Timeline
	cpuBefore time.Duration
	keep      bool
	kept      []judged
}

// Latency of answers, in milliseconds.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

// A Second counts the answers in one second of a replay.
type Second struct {
	Requests int            `json:"requests"`
	Items    int            `json:"items"`
	Failed   int            `json:"failed"` // answers other than 200 and 202, or none
	Codes    map[string]int `json:"codes"`
	P50      float64        `json:"p50_ms"`
	P99      float64        `json:"p99_ms"`
}

// judged is a batch with the codes of its items.
type judged struct {
	sending
	id    string
	codes []intake.Code
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(10*time.Minute/time.Microsecond), 3)
}

func newReport(rate float64, keep bool) *Report {
	return &Report{
		Began: time.Now(), Codes: make(map[string]int), Statuses: make(map[string]int), Rate: rate,
		histogram: newHistogram(), refused: newHistogram(), second: newHistogram(), cpuBefore: cpuTime(), keep: keep,
	}
}

func (r *Report) add(result *vegeta.Result, s sending) {
	latency := max(result.Latency-pauseOf(result.Headers), 0)
	if result.Code == http.StatusTooManyRequests || result.Code == http.StatusServiceUnavailable {
		_ = r.refused.RecordValue(int64(latency / time.Microsecond))
	}
	if r.Rate > 0 {
		due := r.Began.Add(time.Duration(float64(result.Seq+1) / r.Rate * float64(time.Second)))
		latency = max(latency, result.End().Sub(due))
	}
	_ = r.histogram.RecordValue(int64(latency / time.Microsecond)) // beyond ten minutes it isn't counted
	second := r.at(result.End())
	_ = r.second.RecordValue(int64(latency / time.Microsecond))
	codes := codesOf(result.Body)
	r.Requests++
	r.Items += len(codes)
	r.Bytes += int64(result.BytesOut)
	second.Requests++
	second.Items += len(codes)
	for _, code := range codes {
		r.Codes[code.String()]++
		second.Codes[code.String()]++
	}
	r.Statuses[strconv.Itoa(int(result.Code))]++
	if result.Code != http.StatusOK && result.Code != http.StatusAccepted {
		second.Failed++
		r.addError(result)
	}
	if r.keep && len(codes) > 0 {
		r.kept = append(r.kept, judged{s, idOf(result.Body), codes})
	}
}

func (r *Report) addError(result *vegeta.Result) {
	const most = 10
	text := result.Error
	if len(result.Body) > 0 {
		text += ": " + string(result.Body[:min(len(result.Body), 300)])
	}
	if len(r.Errors) < most && !slices.Contains(r.Errors, text) {
		r.Errors = append(r.Errors, text)
	}
}

// at returns the entry of a moment, or the last one if the moment is before it.
func (r *Report) at(moment time.Time) *Second {
	for n := int(moment.Sub(r.Began) / time.Second); len(r.Timeline) <= n; {
		r.closeSecond()
		r.Timeline = append(r.Timeline, Second{Codes: make(map[string]int)})
	}
	if len(r.Timeline) == 0 {
		r.Timeline = append(r.Timeline, Second{Codes: make(map[string]int)})
	}
	return &r.Timeline[len(r.Timeline)-1]
}

func (r *Report) closeSecond() {
	if len(r.Timeline) == 0 {
		return
	}
	last := &r.Timeline[len(r.Timeline)-1]
	last.P50, last.P99 = milliseconds(r.second.ValueAtQuantile(50)), milliseconds(r.second.ValueAtQuantile(99))
	r.second.Reset()
}

func (r *Report) refresh() {
	r.Seconds = time.Since(r.Began).Seconds()
	r.Latency, r.Refused = latencyOf(r.histogram), latencyOf(r.refused)
	if n := len(r.Timeline); n > 0 {
		r.Timeline[n-1].P50, r.Timeline[n-1].P99 = milliseconds(r.second.ValueAtQuantile(50)),
			milliseconds(r.second.ValueAtQuantile(99))
	}
	r.CPU = (cpuTime() - r.cpuBefore).Seconds()
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	return Latency{
		Mean: h.Mean() / 1_000, P50: milliseconds(h.ValueAtQuantile(50)), P90: milliseconds(h.ValueAtQuantile(90)),
		P99: milliseconds(h.ValueAtQuantile(99)), P999: milliseconds(h.ValueAtQuantile(99.9)),
		Max: milliseconds(h.Max()),
	}
}

func milliseconds(microseconds int64) float64 { return float64(microseconds) / 1_000 }

// cpuTime returns the CPU time that this process has used.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// Failed returns how many requests got another answer than 200 or 202, or none.
func (r *Report) Failed() int {
	return r.Requests - r.Statuses[strconv.Itoa(http.StatusOK)] - r.Statuses[strconv.Itoa(http.StatusAccepted)]
}

// Line returns the report in one line.
func (r *Report) Line() string {
	return fmt.Sprintf("%.0f s: %d batches, %d items, %.0f items/s, p50 %.1f ms, p99 %.1f ms",
		r.Seconds, r.Requests, r.Items, r.ItemsPerSecond(), r.Latency.P50, r.Latency.P99)
}

// ItemsPerSecond returns how many items were answered a second.
func (r *Report) ItemsPerSecond() float64 { return float64(r.Items) / max(r.Seconds, 1e-9) }

// Print prints the report as a table.
func (r *Report) Print(out io.Writer) {
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	t.SetColumnConfigs([]table.ColumnConfig{{Number: 2, Align: text.AlignRight}})
	t.AppendRow(table.Row{"seconds", fmt.Sprintf("%.1f", r.Seconds)})
	seconds := max(r.Seconds, 1e-9)
	t.AppendRow(table.Row{"batches", fmt.Sprintf("%d (%.1f/s)", r.Requests, float64(r.Requests)/seconds)})
	t.AppendRow(table.Row{"items", fmt.Sprintf("%d (%.0f/s)", r.Items, r.ItemsPerSecond())})
	t.AppendRow(table.Row{"sent", fmt.Sprintf("%.1f MB (%.1f MB/s)", float64(r.Bytes)/1e6,
		float64(r.Bytes)/1e6/seconds)})
	t.AppendSeparator()
	for _, code := range sortedKeys(r.Codes) {
		t.AppendRow(table.Row{code, r.Codes[code]})
	}
	for _, status := range sortedKeys(r.Statuses) {
		t.AppendRow(table.Row{strings.Replace("answered "+status, "answered 0", "no answer", 1), r.Statuses[status]})
	}
	t.AppendSeparator()
	for _, row := range []struct {
		name  string
		value float64
	}{{"p50", r.Latency.P50}, {"p90", r.Latency.P90}, {"p99", r.Latency.P99}, {"p99.9", r.Latency.P999},
		{"slowest", r.Latency.Max}} {
		t.AppendRow(table.Row{row.name, fmt.Sprintf("%.1f ms", row.value)})
	}
	if r.Refused.Max > 0 {
		t.AppendRow(table.Row{"refused, p50", fmt.Sprintf("%.1f ms", r.Refused.P50)})
		t.AppendRow(table.Row{"refused, p99", fmt.Sprintf("%.1f ms", r.Refused.P99)})
	}
	t.AppendRow(table.Row{"this replay's own CPU", fmt.Sprintf("%.1f s", r.CPU)})
	t.Render()
	for _, err := range r.Errors {
		fmt.Fprintln(out, err)
	}
}

func sortedKeys(counts map[string]int) []string {
	keys := make([]string, 0, len(counts))
	for key := range counts {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
