package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"intake/internal/plot"
)

// A Report says what a run did and found.
type Report struct {
	Seed     uint64         `json:"seed"`
	Began    time.Time      `json:"began"`
	Seconds  float64        `json:"seconds"`
	Cluster  bool           `json:"cluster"`
	Standby  bool           `json:"standby"`
	Faults   map[string]int `json:"faults"`
	Failed   int            `json:"faults_that_could_not_be_made"`
	Timeline []faultSpan    `json:"timeline"`
	Rate     []int          `json:"completed_each_second"`

	Requests   int            `json:"requests"`
	Batches    int            `json:"batches"`
	Items      int            `json:"items"`
	Ends       map[string]int `json:"items_by_end"`
	Records    int            `json:"records"`
	Histories  int            `json:"histories_checked"`
	Unchecked  int            `json:"histories_given_up"`
	Watched    int            `json:"final_states_asked_for_meanwhile"`
	Waited     int            `json:"pending_states_asked_for"`
	Asked      int            `json:"final_states_asked_for_afterwards"`
	Keys       int            `json:"idempotency_keys_repeated"`
	Twins      int            `json:"idempotency_keys_sent_twice_at_once"`
	Seen       int            `json:"keys_in_redis"`
	Conserved  int            `json:"items_counted"`
	Restored   int            `json:"items_lost_and_saved_again"`
	Stale      int            `json:"of_which_redis_had_seen"`
	Overloaded int            `json:"batches_refused_by_overloaded_fronts"`
	ShutOut    float64        `json:"longest_seconds_until_everybody_got_in_again"`
	LongestGap float64        `json:"longest_seconds_without_a_completed_item"`
	Violations []string       `json:"violations"`
}

// A faultSpan is a fault, with the seconds from the beginning at which it began
// and ended.
type faultSpan struct {
	Kind  string  `json:"kind"`
	Where string  `json:"where"`
	Began float64 `json:"began"`
	Ended float64 `json:"ended"`
}

func (r *Report) violate(format string, args ...any) {
	r.Violations = append(r.Violations, fmt.Sprintf(format, args...))
}

// Holds reports whether every promise was kept.
func (r *Report) Holds() bool { return len(r.Violations) == 0 }

// Kind says which servers were run.
func (r *Report) Kind() string {
	if r.Cluster {
		return "a cluster of three"
	}
	if r.Standby {
		return "one server of each kind, and a standby of Postgres"
	}
	return "one server of each kind"
}

// Verdict says whether every promise was kept.
func (r *Report) Verdict() string {
	switch n := len(r.Violations); n {
	case 0:
		return "every promise was kept"
	case 1:
		return "1 violation"
	default:
		return count(n) + " violations"
	}
}

// A check is something that was compared, with a figure and what it means.
type check struct{ Figure, Meaning string }

// Checks says what was compared.
func (r *Report) Checks() []check {
	seconds := func(s float64) string { return fmt.Sprintf("%.1f s", s) }
	return []check{
		{seconds(r.LongestGap), "was the longest time without a Completed item, while parts were killed and cut off"},
		{count(r.Overloaded), "batches were refused by fronts that were overloaded on purpose, after the faults"},
		{seconds(r.ShutOut), "was the longest time after that until every kind of client was served again"},
		{count(r.Histories), "keys had their history checked: there is an order of events in which every answer is true"},
		{count(r.Unchecked), "histories took too long to check, and say nothing"},
		{count(r.Watched), "status checks during the faults found a batch final, and no later one contradicted them"},
		{count(r.Waited), "status checks during the faults found a batch pending, and none found it unknown"},
		{count(r.Asked), "status checks afterwards found each batch final, and as it was answered"},
		{count(r.Keys), "batches with an Idempotency-Key were repeated afterwards, and got the first answer, byte for byte"},
		{count(r.Twins), "batches with an Idempotency-Key were sent over two connections at the same time, and saved once"},
		{count(r.Seen), "keys are in Redis, and each is in Postgres"},
		{count(r.Conserved), "items were sent at the end to compare the counters of clients, fronts, workers and records, which agree"},
		{count(r.Restored), "items were lost when Postgres was put back to an old backup, sent again, and Completed again"},
		{count(r.Stale), "of those were still known to Redis, which did not make them Duplicates"},
	}
}

// endMeanings explains the names in Ends.
var endMeanings = map[string]string{
	unknown.String():   "there was no answer, as the connection was cut; the item may be saved or not",
	refused.String():   "the request was refused as a whole, or never sent; nothing of it may be saved",
	saved.String():     "answered Completed; there is a record with this data, from this very item",
	same.String():      "answered Duplicate; the record has the same data",
	different.String(): "answered Duplicate; the record has other data",
	repeated.String():  "answered Duplicate of an earlier item of the same batch",
	conflict.String():  "answered Conflict with another item of the same batch",
	failed.String():    "answered Failed, as the contract wants it",
	declined.String():  "answered Failed, as a constraint in Postgres refuses the data",
}

func count(n int) string { return plot.Number(float64(n)) }

// Print prints the report.
func (r *Report) Print(out io.Writer) {
	fmt.Fprintf(out, "\nseed %d, %.0f s, %s: %s requests, %s batches, %s items, %s records\n",
		r.Seed, r.Seconds, r.Kind(), count(r.Requests), count(r.Batches), count(r.Items), count(r.Records))
	for _, name := range slices.Sorted(maps.Keys(r.Ends)) {
		fmt.Fprintf(out, "  %9s  %s: %s\n", count(r.Ends[name]), name, endMeanings[name])
	}
	var faults []string
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		faults = append(faults, fmt.Sprintf("%d %s", r.Faults[kind], kind))
	}
	fmt.Fprintf(out, "faults: %s (and %d that could not be made)\n", strings.Join(faults, ", "), r.Failed)
	if r.Holds() {
		for _, c := range r.Checks() {
			fmt.Fprintf(out, "  %9s  %s\n", c.Figure, c.Meaning)
		}
		fmt.Fprintln(out, r.Verdict())
		return
	}
	fmt.Fprintf(out, "%s:\n", r.Verdict())
	for _, violation := range r.Violations[:min(len(r.Violations), 20)] {
		fmt.Fprintln(out, " ", violation)
	}
}

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{"count": count}).Parse(page))

// The size of the picture, in pixels of its own, and of a row of faults.
const (
	plotWidth  = 1000.0
	plotHeight = 160.0
	rowHeight  = 15.0
)

// A mark is a tick of an axis, or the label of a row.
type mark struct {
	At   float64
	Text string
}

// A bar is a fault in the picture.
type bar struct {
	X, Y, Width float64
	Class       string
	Title       string
}

// HTML writes the report as one page, with a picture of what was saved and of the
// faults at that time.
func (r *Report) HTML(out io.Writer) error {
	x, y := plot.Ticks(max(float64(len(r.Rate)), 1), 10), plot.Ticks(float64(slices.Max(append([]int{1}, r.Rate...))),
		4)
	end, highest := x[len(x)-1], y[len(y)-1]
	var line strings.Builder
	for second, n := range r.Rate {
		fmt.Fprintf(&line, "%.1f,%.1f ", float64(second)/end*plotWidth, plotHeight-float64(n)/highest*plotHeight)
	}
	var xs, ys []mark
	for _, second := range x {
		xs = append(xs, mark{second / end * plotWidth, plot.Number(second) + " s"})
	}
	for _, n := range y {
		ys = append(ys, mark{plotHeight - n/highest*plotHeight, plot.Number(n)})
	}
	bars, rows := r.bars(end)
	return pageTemplate.Execute(out, map[string]any{
		"Report": r, "Line": line.String(), "Bars": bars, "Rows": rows, "X": xs, "Y": ys, "Meanings": endMeanings,
		"Width": plotWidth, "Height": plotHeight, "Bottom": plotHeight + 40 + rowHeight*float64(len(rows)),
	})
}

// bars returns the faults as bars, in a row for each place and kind, and the labels
// of the rows.
func (r *Report) bars(end float64) (bars []bar, rows []mark) {
	name := func(f faultSpan) string { return f.Where + ": " + f.Kind }
	var names []string
	for _, f := range r.Timeline {
		names = append(names, name(f))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	top := func(row int) float64 { return plotHeight + 30 + rowHeight*float64(row) }
	for row, name := range names {
		rows = append(rows, mark{top(row) + rowHeight - 5, name})
	}
	for _, f := range r.Timeline {
		row, _ := slices.BinarySearch(names, name(f))
		class := "other"
		if slices.Contains([]string{"kill", "stop", "restart"}, f.Kind) {
			class = f.Kind
		}
		bars = append(bars, bar{
			X: f.Began / end * plotWidth, Y: top(row), Width: max((f.Ended-f.Began)/end*plotWidth, 2), Class: class,
			Title: fmt.Sprintf("%s, %.1f s to %.1f s", name(f), f.Began, f.Ended),
		})
	}
	return bars, rows
}
