package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
)

// A disk is the cells on a disk whose syncs take longer.
type disk struct {
	Delay float64  `json:"sync_delay_ms"`
	Cells []result `json:"cells"`
}

const diskCells = "1x12@1,1x12@64"

// disks measures Intake and its peers on the disk of this machine and on slower ones.
func (b *bench) disks(ctx context.Context, r *results) error {
	systems, err := b.startAll(ctx)
	if err != nil {
		return err
	}
	for _, delay := range []time.Duration{0, time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond} {
		b.delay.set(delay)
		d := disk{Delay: delay.Seconds() * 1e3}
		fmt.Fprintf(os.Stderr, "syncs take %s more\n", delay)
		for _, c := range b.cells {
			measured, err := b.measureRounds(ctx, c, b.rounds, systems...)
			if err != nil {
				return err
			}
			d.Cells = append(d.Cells, *measured)
		}
		r.Disks = append(r.Disks, d)
	}
	b.delay.set(0)
	return nil
}

func (r *results) printDisks(out io.Writer) {
	t := newTable(out, "batch", "at once", "items", "a sync takes more, ms",
		"Intake p50 ms", "more", "grouped", "more", "naive", "more", "Intake / grouped",
		"Intake, items/s", "grouped", "naive", "Intake / grouped")
	for i := range r.Disks[0].Cells {
		first := &r.Disks[0].Cells[i]
		for _, d := range r.Disks {
			m := &d.Cells[i]
			row := table.Row{m.Cell.batch(), m.Cell.Concurrency, m.Cell.what(), fmt.Sprintf("%.0f", d.Delay)}
			for _, system := range []string{"intake", "grouped", "naive"} {
				p50 := m.of(system, p50Of).Median
				row = append(row, fmt.Sprintf("%.1f", p50), fmt.Sprintf("%.1f", p50-first.of(system, p50Of).Median))
			}
			row = append(row, m.ratio("intake", "grouped", p50Of).ratio())
			for _, system := range []string{"intake", "grouped", "naive"} {
				row = append(row, fmt.Sprintf("%.0f", m.of(system, itemsOf).Median))
			}
			t.AppendRow(append(row, m.ratio("intake", "grouped", itemsOf).ratio()))
		}
	}
	r.render(t)
}
