package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/jedib0t/go-pretty/v6/table"
)

// growth is what is measured at a number of saved records.
type growth struct {
	Kept     int      `json:"records_kept"`
	RedisKey float64  `json:"redis_bytes_per_key"`
	Limits   *limits  `json:"limits"` // in a database that doesn't grow as much
	Cells    []result `json:"cells"`
}

const growthCells = "1x12@16,1000x12@16,1000x12@16+saved"

// growth measures the same cells with more and more saved records, all of which were sent
// as batches.
func (b *bench) growth(ctx context.Context, r *results) error {
	s, err := b.startAlone(ctx)
	if err != nil {
		return err
	}
	file, err := b.file(ctx, cell{shape: thousand})
	if err != nil {
		return err
	}
	const items = 24 * 1_000 // of the file
	for _, kept := range []int{0, 1_000_000, 5_000_000} {
		g := growth{}
		for {
			if g.Kept, err = s.records(ctx); err != nil {
				return err
			}
			if g.Kept >= kept {
				break
			}
			loops := max((kept-g.Kept)/items, 1)
			fmt.Fprintf(os.Stderr, "%d records are kept, %d are to be\n", g.Kept, kept)
			loop := fmt.Sprintf("--loop=%d", min(loops, 50))
			if _, err := b.replay(ctx, s, cell{Concurrency: 16}, file, loop, "--fresh-keys"); err != nil {
				return err
			}
		}
		for _, c := range b.cells {
			measured, err := b.measureRounds(ctx, c, b.rounds, s)
			if err != nil {
				return err
			}
			g.Cells = append(g.Cells, *measured)
		}
		if g.Limits, err = b.limits(ctx, thousand); err != nil {
			return err
		}
		records, err := s.records(ctx)
		if err != nil {
			return err
		}
		used, err := s.redisMemory(ctx)
		if err != nil {
			return err
		}
		g.RedisKey = float64(used-s.redisEmpty) / float64(records)
		r.Growth = append(r.Growth, g)
	}
	return nil
}

func (r *results) printGrowth(out io.Writer) {
	t := newTable(out, "batch", "at once", "items", "records kept", "items/s", "of the rate at first",
		"p50 ms", "p99", "Redis B/key", "bare save, items/s")
	for _, g := range r.Growth {
		for i := range g.Cells {
			c := &g.Cells[i]
			rate, first := c.of("intake", itemsOf).Median, r.Growth[0].Cells[i].of("intake", itemsOf).Median
			t.AppendRow(table.Row{
				c.Cell.batch(), c.Cell.Concurrency, c.Cell.what(), g.Kept,
				fmt.Sprintf("%.0f", rate), fmt.Sprintf("%.0f %%", 100*rate/first),
				fmt.Sprintf("%.1f", c.of("intake", p50Of).Median), fmt.Sprintf("%.1f", c.of("intake", p99Of).Median),
				fmt.Sprintf("%.0f", g.RedisKey), fmt.Sprintf("%.0f", g.Limits.Bare),
			})
		}
	}
	r.render(t)
}
