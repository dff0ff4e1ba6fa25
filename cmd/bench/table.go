package main

import (
	"context"
	"fmt"
	"io"

	"github.com/jedib0t/go-pretty/v6/table"
)

// tableCells are the cells of the table.
const tableCells = "1x12@1,1x12@64,1x12@256,1x12@1000,10x12@16,100x12@16,1000x12@16," +
	"1x12@64+saved,100x12@16+saved,1000x12@16+saved,100x12@16+mixed," +
	"1x12@64+echo,100x12@16+echo,1000x12@16+echo"

// shortCells are those that a short run has.
const shortCells = "1x12@1,1x12@64,100x12@16,1000x12@16,1000x12@16+saved,100x12@16+mixed"

// table measures Intake beside its peers, the limits of Postgres, and the response times
// at half load.
func (b *bench) table(ctx context.Context, r *results) error {
	systems, err := b.startAll(ctx)
	if err != nil {
		return err
	}
	for _, c := range b.cells {
		measured, err := b.measureRounds(ctx, c, b.rounds, systems...)
		if err != nil {
			return err
		}
		r.Cells = append(r.Cells, *measured)
	}
	if r.Limits, err = b.limits(ctx, thousand); err != nil {
		return err
	}
	r.Half, err = b.halfLoad(ctx, systems[0], r.Cells)
	return err
}

// startAll starts Intake and its peers.
func (b *bench) startAll(ctx context.Context) ([]*system, error) {
	if err := b.start(ctx); err != nil {
		return nil, err
	}
	intake, err := b.startIntake(ctx, "intake", b.program)
	if err != nil {
		return nil, err
	}
	systems := []*system{intake}
	for _, name := range peers {
		peer, err := b.startPeer(ctx, name)
		if err != nil {
			return nil, err
		}
		systems = append(systems, peer)
	}
	return systems, b.warmUp(ctx, systems...)
}

// startAlone starts Intake without its peers.
func (b *bench) startAlone(ctx context.Context) (*system, error) {
	if err := b.start(ctx); err != nil {
		return nil, err
	}
	return b.startIntake(ctx, "intake", b.program)
}

func (r *results) printCells(out io.Writer) {
	t := newTable(out, "batch", "at once", "items", "Intake, items/s", "grouped", "naive",
		"Intake / grouped", "Intake / naive",
		"Intake p50 ms", "grouped", "naive", "Intake / grouped", "Intake p99", "grouped", "naive")
	for i := range r.Cells {
		m := &r.Cells[i]
		row := table.Row{m.Cell.batch(), m.Cell.Concurrency, m.Cell.what()}
		figures := func(format string, figure func(*measurement) float64) {
			for _, system := range []string{"intake", "grouped", "naive"} {
				row = append(row, fmt.Sprintf(format, m.of(system, figure).Median))
			}
		}
		figures("%.0f", itemsOf)
		row = append(row, m.ratio("intake", "grouped", itemsOf).ratio(), m.ratio("intake", "naive", itemsOf).ratio())
		figures("%.1f", p50Of)
		row = append(row, m.ratio("intake", "grouped", p50Of).ratio())
		figures("%.1f", p99Of)
		t.AppendRow(row)
	}
	r.render(t)
	fmt.Fprintln(out)
	t = newTable(out, "CPU µs/item", "at once", "items", "front", "worker", "nats", "redis", "postgres", "all", load,
		"grouped", "its postgres", "all", load, "naive", "its postgres", "all", load, "Intake / grouped")
	for i := range r.Cells {
		m := &r.Cells[i]
		row := table.Row{m.Cell.batch(), m.Cell.Concurrency, m.Cell.what()}
		row = append(row, m.cpuCells("intake", "front", "worker", "nats", "redis", "postgres")...)
		for _, system := range peers {
			row = append(row, m.cpuCells(system, system, "postgres")...)
		}
		t.AppendRow(append(row, m.ratio("intake", "grouped", cpuOfAll).ratio()))
	}
	r.render(t)
	fmt.Fprintln(out)
	t = newTable(out, "batch", "at once", "items", "a publication", "a transaction",
		"WAL B/claim", "grouped", "heap B/claim", "grouped", "MiB", "grouped", "refused")
	for i := range r.Cells {
		m := &r.Cells[i]
		row := table.Row{m.Cell.batch(), m.Cell.Concurrency, m.Cell.what()}
		figure := func(system string, format string, of func(*measurement) float64) {
			row = append(row, some(format, m.of(system, of).Median))
		}
		figure("intake", "%.1f", func(m *measurement) float64 { return m.Published })
		figure("intake", "%.1f", func(m *measurement) float64 { return m.Saved })
		for _, of := range []func(*measurement) float64{
			func(m *measurement) float64 { return m.WAL },
			func(m *measurement) float64 { return m.Heap },
			func(m *measurement) float64 { return m.Memory },
		} {
			figure("intake", "%.0f", of)
			figure("grouped", "%.0f", of)
		}
		figure("intake", "%.0f", func(m *measurement) float64 { return float64(m.Refused) })
		t.AppendRow(row)
	}
	r.render(t)
}

// cpuCells returns the processor time of processes, of all of the system's, and of the load.
func (r *result) cpuCells(system string, processes ...string) (row table.Row) {
	for _, name := range append(processes, "all", load) {
		row = append(row, fmt.Sprintf("%.1f", r.of(system, func(m *measurement) float64 {
			if name == "all" {
				return m.cpu()
			}
			return m.CPU[name]
		}).Median))
	}
	return row
}
