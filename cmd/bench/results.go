package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// results are the results of a run.
type results struct {
	Began    time.Time  `json:"began"`
	Machine  string     `json:"machine"`
	Postgres string     `json:"postgres"`
	Rounds   int        `json:"rounds"`
	Cells    []result   `json:"cells,omitempty"`
	Half     *halfLoad  `json:"half_load,omitempty"`
	Growth   []growth   `json:"growth,omitempty"`
	Soak     []minute   `json:"soak,omitempty"`
	Lanes    []lane     `json:"lanes,omitempty"`
	Overload []overload `json:"overload,omitempty"`

	markdown bool // how tables are printed
}

// A result holds all measurements of a cell.
type result struct {
	Cell    cell                    `json:"cell"`
	Bare    float64                 `json:"bare_save_claims_per_second"`
	Copy    float64                 `json:"raw_copy_claims_per_second"`
	Ratios  ratios                  `json:"ratios"`
	Systems map[string]*measurement `json:"systems"`
}

// The ratios of Intake's rate to others'.
type ratios struct {
	Bare  float64 `json:"to_bare_save"`
	Copy  float64 `json:"to_raw_copy"`
	Naive float64 `json:"to_naive"`
}

func (r *result) setRatios() {
	own := r.Systems["intake"].Claims
	r.Ratios = ratios{own / r.Bare, own / r.Copy, own / r.Systems["naive"].Claims}
}

// median returns of each system the round whose rate is the median, and the median
// of each ratio, which is taken within a round.
func median(rounds []result) result {
	middle := func(by func(*result) float64) *result {
		slices.SortFunc(rounds, func(a, b result) int { return cmp.Compare(by(&a), by(&b)) })
		return &rounds[len(rounds)/2]
	}
	m := result{Cell: rounds[0].Cell, Systems: make(map[string]*measurement)}
	for name := range rounds[0].Systems {
		m.Systems[name] = middle(func(r *result) float64 { return r.Systems[name].Items }).Systems[name]
	}
	m.Bare = middle(func(r *result) float64 { return r.Bare }).Bare
	m.Copy = middle(func(r *result) float64 { return r.Copy }).Copy
	m.Ratios.Bare = middle(func(r *result) float64 { return r.Ratios.Bare }).Ratios.Bare
	m.Ratios.Copy = middle(func(r *result) float64 { return r.Ratios.Copy }).Ratios.Copy
	m.Ratios.Naive = middle(func(r *result) float64 { return r.Ratios.Naive }).Ratios.Naive
	return m
}

func (r *result) line() string {
	intake, naive := r.Systems["intake"], r.Systems["naive"]
	return fmt.Sprintf("%s: %.0f items/s, naive %.0f (%.1f x), bare save %.0f %%, raw copy %.0f %%, p50 %.1f ms (naive %.1f)",
		r.Cell, intake.Items, naive.Items, r.Ratios.Naive, 100*r.Ratios.Bare, 100*r.Ratios.Copy, intake.P50, naive.P50)
}

func (r *results) print(out io.Writer) {
	fmt.Fprintf(out, "%s, Postgres %s, %s; cells with a target: medians of %d rounds\n\n", r.Machine, r.Postgres, r.Began.Format(time.DateOnly), r.Rounds)
	if len(r.Cells) > 0 {
		r.printCells(out)
	}
	if r.Half != nil {
		fmt.Fprintf(out, "\n%s\n", r.Half)
	}
	if len(r.Growth) > 0 {
		r.printGrowth(out)
	}
	if len(r.Soak) > 0 {
		r.printSoak(out)
	}
	if len(r.Lanes) > 0 {
		r.printLanes(out)
	}
	if len(r.Overload) > 0 {
		r.printOverload(out)
	}
}

// newTable makes a table whose columns from the second on are numbers.
func newTable(out io.Writer, header ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(header)
	var right []table.ColumnConfig
	for n := 2; n <= len(header); n++ {
		right = append(right, table.ColumnConfig{Number: n, Align: text.AlignRight})
	}
	t.SetColumnConfigs(right)
	return t
}

func (r *results) render(t table.Writer) {
	if r.markdown {
		t.RenderMarkdown()
	} else {
		t.Render()
	}
}

func (r *results) printCells(out io.Writer) {
	t := newTable(out, "batch", "at once", "saved", "items/s", "claims/s", "bare save", "raw COPY", "naive", "p50 ms", "p99", "p99.9", "naive p50",
		"CPU µs/claim", "MiB", "WAL B/claim", "refused")
	for i := range r.Cells {
		c := &r.Cells[i]
		m, naive := c.Systems["intake"], c.Systems["naive"]
		cpu, wal := "", ""
		if c.Cell.Saved == 0 {
			cpu, wal = fmt.Sprintf("%.2f", m.CPUClaim), fmt.Sprintf("%.0f", m.WAL)
		}
		t.AppendRow(table.Row{
			fmt.Sprintf("%d × %d", c.Cell.Items, c.Cell.Claims), c.Cell.Concurrency, fmt.Sprintf("%.0f %%", 100*c.Cell.Saved),
			fmt.Sprintf("%.0f", m.Items), fmt.Sprintf("%.0f", m.Claims),
			fmt.Sprintf("%.0f %%", 100*c.Ratios.Bare), fmt.Sprintf("%.0f %%", 100*c.Ratios.Copy), fmt.Sprintf("%.1f ×", c.Ratios.Naive),
			fmt.Sprintf("%.1f", m.P50), fmt.Sprintf("%.1f", m.P99), fmt.Sprintf("%.1f", m.P999), fmt.Sprintf("%.1f", naive.P50),
			cpu, fmt.Sprintf("%.0f", m.Memory), wal, m.Refused,
		})
	}
	r.render(t)
	fmt.Fprintln(out)
	t = newTable(out, "CPU seconds", "at once", "saved", "front", "worker", "nats", "redis", "postgres", "replay", "naive", "its postgres")
	for i := range r.Cells {
		c := &r.Cells[i]
		row := table.Row{fmt.Sprintf("%d × %d", c.Cell.Items, c.Cell.Claims), c.Cell.Concurrency, fmt.Sprintf("%.0f %%", 100*c.Cell.Saved)}
		for _, name := range []string{"front", "worker", "nats", "redis", "postgres", "replay"} {
			row = append(row, fmt.Sprintf("%.2f", c.Systems["intake"].CPU[name]))
		}
		for _, name := range []string{"naive", "postgres"} {
			row = append(row, fmt.Sprintf("%.2f", c.Systems["naive"].CPU[name]))
		}
		t.AppendRow(row)
	}
	r.render(t)
}
