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
)

// A Report is what a run did and found.
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

// Holds tells whether every promise was kept.
func (r *Report) Holds() bool { return len(r.Violations) == 0 }

// Kind says what was run.
func (r *Report) Kind() string {
	if r.Cluster {
		return "a cluster of three"
	}
	if r.Standby {
		return "one server of each kind, and a standby of Postgres"
	}
	return "one server of each kind"
}

// Checks says what was compared.
func (r *Report) Checks() []string {
	return []string{
		fmt.Sprintf("the longest time in which nothing was Completed: %.1f s", r.LongestGap),
		fmt.Sprintf("%d batches refused by overloaded fronts; the longest time until everybody got in again: %.1f s", r.Overloaded, r.ShutOut),
		fmt.Sprintf("%d keys' histories checked (%d given up)", r.Histories, r.Unchecked),
		fmt.Sprintf("%d final and %d pending states asked for while faults were made, %d final ones afterwards", r.Watched, r.Waited, r.Asked),
		fmt.Sprintf("%d Idempotency-Keys sent again, %d twice at once", r.Keys, r.Twins),
		fmt.Sprintf("%d keys in Redis, all of them in Postgres", r.Seen),
		fmt.Sprintf("%d items counted alike by clients, fronts and workers", r.Conserved),
		fmt.Sprintf("%d items saved again that Postgres had lost, of which Redis had seen %d", r.Restored, r.Stale),
	}
}

// Print prints the report.
func (r *Report) Print(out io.Writer) {
	fmt.Fprintf(out, "\nseed %d, %.0f s, %s: %d requests, %d batches, %d items, %d records\n", r.Seed, r.Seconds, r.Kind(), r.Requests, r.Batches, r.Items, r.Records)
	for _, name := range slices.Sorted(maps.Keys(r.Ends)) {
		fmt.Fprintf(out, "  %7d %s\n", r.Ends[name], name)
	}
	var faults []string
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		faults = append(faults, fmt.Sprintf("%d %s", r.Faults[kind], kind))
	}
	fmt.Fprintf(out, "faults: %s (and %d that could not be made)\n", strings.Join(faults, ", "), r.Failed)
	if r.Holds() {
		fmt.Fprintf(out, "%s\nevery promise was kept\n", strings.Join(r.Checks(), "\n"))
		return
	}
	fmt.Fprintf(out, "%d violations:\n", len(r.Violations))
	for _, violation := range r.Violations[:min(len(r.Violations), 20)] {
		fmt.Fprintln(out, " ", violation)
	}
}

//go:embed report.html
var page string

// HTML writes the report as one page, with a picture of what was saved and what
// went wrong meanwhile.
func (r *Report) HTML(out io.Writer) error {
	const width, height, row = 1000.0, 160.0, 14.0
	end := max(float64(len(r.Rate)), 1)
	highest := float64(max(slices.Max(append([]int{1}, r.Rate...)), 1))
	var line strings.Builder
	for second, n := range r.Rate {
		fmt.Fprintf(&line, "%.1f,%.1f ", float64(second)/end*width, height-float64(n)/highest*height)
	}
	type bar struct {
		X, Y, Width float64
		Title       string
	}
	rows := make(map[string]int)
	var bars []bar
	var labels []string
	for _, f := range r.Timeline {
		if _, ok := rows[f.Where]; !ok {
			rows[f.Where] = len(rows)
			labels = append(labels, f.Where)
		}
		bars = append(bars, bar{f.Began / end * width, height + 20 + row*float64(rows[f.Where]), max((f.Ended-f.Began)/end*width, 2), fmt.Sprintf("%s: %s, %.1f s to %.1f s", f.Where, f.Kind, f.Began, f.Ended)})
	}
	return template.Must(template.New("report").Parse(page)).Execute(out, map[string]any{
		"Report": r, "Line": line.String(), "Highest": int(highest), "Bars": bars, "Labels": labels,
		"Height": height + 30 + row*float64(len(rows)), "Row": row, "Top": height + 20,
	})
}
