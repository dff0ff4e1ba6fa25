package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// results are a whole run.
type results struct {
	Began    time.Time `json:"began"`
	Machine  string    `json:"machine"`
	Postgres string    `json:"postgres"`
	Cells    []result  `json:"cells"`
}

// A result is all that was measured in a cell.
type result struct {
	cell
	Bare    float64 // claims a second
	Copy    float64 // claims a second
	Systems map[string]*measurement
}

// ratio is Intake's rate to another one.
func (r *result) ratio(other float64) float64 { return r.Systems["intake"].Claims / max(other, 1e-9) }

func (r result) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{
		"cell": r.cell, "bare_save_claims_per_second": r.Bare, "raw_copy_claims_per_second": r.Copy, "systems": r.Systems,
		"ratio_to_bare_save": r.ratio(r.Bare), "ratio_to_raw_copy": r.ratio(r.Copy), "ratio_to_naive": r.ratio(r.Systems["naive"].Claims),
	})
}

func (r *result) line() string {
	intake, naive := r.Systems["intake"], r.Systems["naive"]
	return fmt.Sprintf("%s: %.0f items/s, naive %.0f (%.1f x), bare save %.0f %%, raw copy %.0f %%, p50 %.1f ms (naive %.1f)",
		r.cell, intake.Items, naive.Items, r.ratio(naive.Claims), 100*r.ratio(r.Bare), 100*r.ratio(r.Copy), intake.P50, naive.P50)
}

func (r results) print(out io.Writer) {
	fmt.Fprintf(out, "%s, Postgres %s, %s\n\n", r.Machine, r.Postgres, r.Began.Format(time.DateOnly))
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"batch", "at once", "saved", "items/s", "claims/s", "bare save", "raw COPY", "naive", "p50 ms", "p99", "p99.9", "naive p50", "CPU µs/claim", "MiB", "WAL B/claim", "Redis B/key"})
	var right []table.ColumnConfig
	for n := 2; n <= 16; n++ {
		right = append(right, table.ColumnConfig{Number: n, Align: text.AlignRight})
	}
	t.SetColumnConfigs(right)
	for i := range r.Cells {
		c := &r.Cells[i]
		m, naive := c.Systems["intake"], c.Systems["naive"]
		redis, cpu, wal := "", "", ""
		if c.Saved == 0 {
			redis, cpu, wal = fmt.Sprintf("%.0f", m.RedisKey), fmt.Sprintf("%.2f", m.CPUClaim), fmt.Sprintf("%.0f", m.WAL)
		}
		t.AppendRow(table.Row{
			fmt.Sprintf("%d × %d", c.Items, c.Claims), c.Concurrency, fmt.Sprintf("%.0f %%", 100*c.Saved),
			fmt.Sprintf("%.0f", m.Items), fmt.Sprintf("%.0f", m.Claims),
			fmt.Sprintf("%.0f %%", 100*c.ratio(c.Bare)), fmt.Sprintf("%.0f %%", 100*c.ratio(c.Copy)), fmt.Sprintf("%.1f ×", c.ratio(naive.Claims)),
			fmt.Sprintf("%.1f", m.P50), fmt.Sprintf("%.1f", m.P99), fmt.Sprintf("%.1f", m.P999), fmt.Sprintf("%.1f", naive.P50),
			cpu, fmt.Sprintf("%.0f", m.Memory), wal, redis,
		})
	}
	t.Render()
}
