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
)

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Parse(page))

// The size of a plot, in pixels of its own.
const (
	plotWidth  = 900
	plotHeight = 240
)

// A plot is a picture of curves over a common axis.
type plot struct {
	Title  string
	Width  int
	Height int
	Curves []curve
	X, Y   []tick
}

type curve struct {
	Name, Class string
	Points      string
}

// A tick is a mark of an axis: where it is and what stands beside it.
type tick struct {
	At   float64
	Text string
}

// HTML writes the report as one page that needs nothing else.
func (r *Report) HTML(out io.Writer, title string) error {
	return pageTemplate.Execute(out, map[string]any{
		"Title": title, "Report": r, "Codes": sortedKeys(r.Codes), "Statuses": sortedKeys(r.Statuses),
		"BatchesPerSecond": float64(r.Requests) / max(r.Seconds, 1e-9),
		"Plots":            []plot{r.throughputPlot(), r.latencyPlot(), r.distributionPlot(), r.statesPlot()},
	})
}

func (r *Report) throughputPlot() plot {
	return overTime("Items answered a second", "", r.Timeline, series{"items", "a", func(s *Second) float64 { return float64(s.Items) }})
}

func (r *Report) latencyPlot() plot {
	return overTime("Latency over time", "ms", r.Timeline,
		series{"p50", "a", func(s *Second) float64 { return s.P50 }}, series{"p99", "b", func(s *Second) float64 { return s.P99 }})
}

func (r *Report) statesPlot() plot {
	var all []series
	classes := []string{"a", "b", "c", "d", "e", "f"}
	for i, code := range sortedKeys(r.Codes) {
		all = append(all, series{code, classes[i%len(classes)], func(s *Second) float64 { return float64(s.Codes[code]) }})
	}
	all = append(all, series{"refused or failed batches", "g", func(s *Second) float64 { return float64(s.Failed) }})
	return overTime("States over time, items a second", "", r.Timeline, all...)
}

// A series is what a curve shows of each second.
type series struct {
	name, class string
	value       func(*Second) float64
}

func overTime(title, unit string, timeline []Second, all ...series) plot {
	p := plot{Title: title, Width: plotWidth, Height: plotHeight}
	top := 1.0
	for _, s := range all {
		for i := range timeline {
			top = max(top, s.value(&timeline[i]))
		}
	}
	last := float64(max(len(timeline)-1, 1))
	for _, s := range all {
		var points strings.Builder
		for i := range timeline {
			fmt.Fprintf(&points, "%.1f,%.1f ", float64(i)/last*plotWidth, plotHeight*(1-s.value(&timeline[i])/top))
		}
		p.Curves = append(p.Curves, curve{s.name, s.class, points.String()})
	}
	for i := range 5 {
		part := float64(i) / 4
		p.X = append(p.X, tick{part * plotWidth, fmt.Sprintf("%.0f s", part*last)})
		p.Y = append(p.Y, tick{plotHeight * (1 - part), strings.TrimSpace(short(part*top) + " " + unit)})
	}
	return p
}

// distributionPlot shows what part of the answers took how long at most. Both
// axes are stretched so that the slowest ones can be seen.
func (r *Report) distributionPlot() plot {
	p := plot{Title: "Distribution of latency", Width: plotWidth, Height: plotHeight}
	percentiles := []float64{0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100}
	x := func(percentile float64) float64 {
		nines := -math.Log10(max(1-percentile/100, 1e-5))
		return nines / 5 * plotWidth
	}
	low, high := math.Log10(max(milliseconds(r.histogram.Min()), 0.01)), math.Log10(max(r.Latency.Max, 0.1))
	y := func(ms float64) float64 {
		return plotHeight * (1 - (math.Log10(max(ms, 0.01))-low)/max(high-low, 1e-9))
	}
	var points strings.Builder
	for _, percentile := range percentiles {
		fmt.Fprintf(&points, "%.1f,%.1f ", x(percentile), y(milliseconds(r.histogram.ValueAtQuantile(percentile))))
	}
	p.Curves = []curve{{"answered within", "a", points.String()}}
	for _, percentile := range []float64{0, 50, 90, 99, 99.9, 99.99} {
		p.X = append(p.X, tick{x(percentile), fmt.Sprintf("%g %%", percentile)})
	}
	for i := range 5 {
		ms := math.Pow(10, low+(high-low)*float64(i)/4)
		p.Y = append(p.Y, tick{y(ms), short(ms) + " ms"})
	}
	return p
}

func short(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.1f M", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.0f k", v/1e3)
	case v >= 10 || v == 0:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2g", v)
}

// StateOf names the state that a code stands for.
func (r *Report) StateOf(name string) intake.State {
	var code intake.Code
	if code.UnmarshalText([]byte(name)) != nil {
		return ""
	}
	return code.State()
}

// IsSteady tells whether all seconds but the first and the last had answers.
func (r *Report) IsSteady() bool {
	inner := r.Timeline
	if len(inner) > 2 {
		inner = inner[1 : len(inner)-1]
	}
	return !slices.ContainsFunc(inner, func(s Second) bool { return s.Requests == 0 })
}
