package traffic

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"

	"intake"
	"intake/internal/plot"
)

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{"number": func(v any) string {
	switch v := v.(type) {
	case int:
		return plot.Number(float64(v))
	case float64:
		return plot.Number(v)
	}
	return fmt.Sprint(v)
}}).Parse(page))

// The size of a plot, in pixels of its own.
const (
	plotWidth  = 900
	plotHeight = 240
)

// A picture is curves over a common axis.
type picture struct {
	Title  string
	Note   string // how to read it
	Width  int
	Height int
	Curves []curve
	X, Y   []tick
}

type curve struct {
	Name, Class string
	Points      string
}

// A tick is a mark of an axis: where it is and its label.
type tick struct {
	At   float64
	Text string
}

// A Page is what the report as a page says beside the report.
type Page struct {
	Target  string // URL of the front
	Command string // the command line, without secrets
	Version string // of the program
	Host    string // that the batches were sent from
	// Verified is the comparison with the data store, nil if there was none.
	Verified *Verified
	// Crossed says which thresholds were crossed.
	Crossed []string
}

// HTML writes the report as one page that needs nothing else.
func (r *Report) HTML(out io.Writer, p Page) error {
	return pageTemplate.Execute(out, map[string]any{
		"Page": p, "Report": r, "Codes": sortedKeys(r.Codes), "Statuses": sortedKeys(r.Statuses),
		"BatchesPerSecond": float64(r.Requests) / max(r.Seconds, 1e-9),
		"Plots":            []picture{r.throughputPlot(), r.latencyPlot(), r.distributionPlot(), r.statesPlot()},
	})
}

func (r *Report) throughputPlot() picture {
	const note = "Each point is one second: how many items had their answer in it. " +
		"A level line is a steady rate; a gap down to 0 is a stall. The last second is not a whole one."
	items := series{"items", "a", func(s *Second) float64 { return float64(s.Items) }}
	return overTime("Items answered a second", note, "", r.Timeline, items)
}

func (r *Report) latencyPlot() picture {
	const note = "Half of the answers of a second were faster than its p50, and 99 in 100 faster than its p99. " +
		"A p99 that rises while p50 stays level is a few slow batches; both rising together is a queue that grows."
	return overTime("Latency over time", note, "ms", r.Timeline,
		series{"p50", "a", func(s *Second) float64 { return s.P50 }},
		series{"p99", "b", func(s *Second) float64 { return s.P99 }})
}

func (r *Report) statesPlot() picture {
	const note = "Items a second by the code of their answer. " +
		"The red line counts batches, not items: those that were refused or got no answer."
	// A code has its colour in every report, so that two of them can be compared.
	var all []series
	for _, code := range sortedKeys(r.Codes) {
		all = append(all, series{code, codeClasses[code], func(s *Second) float64 { return float64(s.Codes[code]) }})
	}
	all = append(all, series{"refused or failed batches", "g", func(s *Second) float64 { return float64(s.Failed) }})
	return overTime("States over time", note, "", r.Timeline, all...)
}

var codeClasses = map[string]string{
	intake.CodeSaved.String():              "c",
	intake.CodeWouldBeSaved.String():       "c",
	intake.CodePending.String():            "e",
	intake.CodeDuplicateInRequest.String(): "f",
	intake.CodeDuplicateOfSaved.String():   "a",
	intake.CodeConflictInRequest.String():  "d",
	intake.CodeInvalid.String():            "b",
	intake.CodeRefused.String():            "h",
}

// A series is what a curve shows of each second.
type series struct {
	name, class string
	value       func(*Second) float64
}

func overTime(title, note, unit string, timeline []Second, all ...series) picture {
	p := picture{Title: title, Note: note, Width: plotWidth, Height: plotHeight}
	top := 0.0
	for _, s := range all {
		for i := range timeline {
			top = max(top, s.value(&timeline[i]))
		}
	}
	y, x := plot.Ticks(top, 4), plot.Ticks(float64(max(len(timeline)-1, 1)), 8)
	highest, last := y[len(y)-1], x[len(x)-1]
	for _, s := range all {
		var points strings.Builder
		for i := range timeline {
			fmt.Fprintf(&points, "%.1f,%.1f ", float64(i)/last*plotWidth, plotHeight*(1-s.value(&timeline[i])/highest))
		}
		p.Curves = append(p.Curves, curve{s.name, s.class, points.String()})
	}
	for _, second := range x {
		p.X = append(p.X, tick{second / last * plotWidth, plot.Number(second) + " s"})
	}
	for _, value := range y {
		p.Y = append(p.Y, tick{plotHeight * (1 - value/highest), strings.TrimSpace(plot.Number(value) + " " + unit)})
	}
	return p
}

// distributionPlot shows within which time each share of the answers came. Both
// axes are stretched so that the slowest ones can be seen.
func (r *Report) distributionPlot() picture {
	p := picture{
		Title: "Distribution of latency", Width: plotWidth, Height: plotHeight,
		Note: "The curve at 99 % is the time within which 99 of 100 answers came. Both scales are logarithmic: " +
			"each step to the right is ten times rarer, and each power of ten upwards is ten times slower.",
	}
	percentiles := []float64{0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100}
	x := func(percentile float64) float64 {
		nines := -math.Log10(max(1-percentile/100, 1e-5))
		return nines / 5 * plotWidth
	}
	y := plot.LogTicks(max(milliseconds(r.histogram.Min()), 0.01), max(r.Latency.Max, 0.1))
	low, high := math.Log10(y[0]), math.Log10(y[len(y)-1])
	height := func(ms float64) float64 {
		return plotHeight * (1 - (math.Log10(max(ms, y[0]))-low)/(high-low))
	}
	var points strings.Builder
	for _, percentile := range percentiles {
		fmt.Fprintf(&points, "%.1f,%.1f ", x(percentile), height(milliseconds(r.histogram.ValueAtQuantile(percentile))))
	}
	p.Curves = []curve{{"answered within", "a", points.String()}}
	for _, percentile := range []float64{0, 50, 90, 99, 99.9, 99.99} {
		p.X = append(p.X, tick{x(percentile), fmt.Sprintf("%g %%", percentile)})
	}
	for _, ms := range y {
		p.Y = append(p.Y, tick{height(ms), plot.Number(ms) + " ms"})
	}
	return p
}

// StateOf returns the state of a code.
func (r *Report) StateOf(name string) intake.State {
	var code intake.Code
	if code.UnmarshalText([]byte(name)) != nil {
		return ""
	}
	return code.State()
}

// IsSteady reports whether all seconds but the first and the last had answers.
func (r *Report) IsSteady() bool {
	inner := r.Timeline
	if len(inner) > 2 {
		inner = inner[1 : len(inner)-1]
	}
	return !slices.ContainsFunc(inner, func(s Second) bool { return s.Requests == 0 })
}
