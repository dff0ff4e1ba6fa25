package main

import (
	"fmt"
	"io"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// results are the results of a run.
type results struct {
	Began    time.Time   `json:"began"`
	Machine  string      `json:"machine"`
	Postgres string      `json:"postgres"`
	Rounds   int         `json:"rounds"`
	Delay    string      `json:"sync_delay,omitempty"`
	Compare  *comparison `json:"compare,omitempty"`
	Cells    []result    `json:"cells,omitempty"`
	Limits   *limits     `json:"limits,omitempty"`
	Half     *halfLoad   `json:"half_load,omitempty"`
	Disks    []disk      `json:"disks,omitempty"`
	Growth   []growth    `json:"growth,omitempty"`
	Soak     []minute    `json:"soak,omitempty"`
	Lanes    []lane      `json:"lanes,omitempty"`
	Overload []overload  `json:"overload,omitempty"`

	markdown bool // how tables are printed
}

func (r *results) print(out io.Writer) {
	fmt.Fprintf(out, "%s, Postgres %s, %s; medians of %d rounds\n\n",
		r.Machine, r.Postgres, r.Began.Format(time.DateOnly), r.Rounds)
	if r.Delay != "" {
		fmt.Fprintf(out, "Each sync of the disk takes %s more.\n\n", r.Delay)
	}
	if r.Compare != nil {
		r.Compare.print(out, r)
	}
	if len(r.Cells) > 0 {
		r.printCells(out)
	}
	if r.Limits != nil {
		r.Limits.print(out)
	}
	if r.Half != nil {
		fmt.Fprintf(out, "\n%s\n", r.Half)
	}
	if len(r.Disks) > 0 {
		r.printDisks(out)
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

// intakeProcesses are the processes of Intake in the order of the tables.
var intakeProcesses = []string{"front", "worker", "nats", "redis", "postgres", load}

// details returns the cells of a table row: the CPU of each process, and what else there
// is of a system.
func (r *result) details(system string, processes []string) (row table.Row) {
	figure := func(format string, of func(*measurement) float64) {
		row = append(row, some(format, r.of(system, of).Median))
	}
	for _, name := range processes {
		figure("%.1f", func(m *measurement) float64 { return m.CPU[name] })
	}
	figure("%.1f", func(m *measurement) float64 { return m.Published })
	figure("%.1f", func(m *measurement) float64 { return m.Saved })
	figure("%.0f", func(m *measurement) float64 { return m.WAL })
	figure("%.0f", func(m *measurement) float64 { return m.Heap })
	figure("%.0f", func(m *measurement) float64 { return m.Memory })
	return row
}

// some formats a figure, or returns nothing if there is none.
func some(format string, value float64) string {
	if value == 0 {
		return ""
	}
	return fmt.Sprintf(format, value)
}
