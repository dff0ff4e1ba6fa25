package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// halfLoad holds the response times at half of the best rate. Requests are sent when they
// are due, whether or not earlier ones are answered.
type halfLoad struct {
	Cell     cell    `json:"cell"`
	Rate     float64 `json:"batches_per_second"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	Unloaded float64 `json:"unloaded_p50_ms"` // one request at a time
}

func (h *halfLoad) String() string {
	return fmt.Sprintf("at half of the best rate, %.1f batches of %d × %d a second: p50 %.1f ms, p99 %.1f ms, %.1f times the p50 of %.1f ms of one request at a time",
		h.Rate, h.Cell.Items, h.Cell.Claims, h.P50, h.P99, h.P99/h.Unloaded, h.Unloaded)
}

// thousand is the shape of the targets.
var thousand = shape{1_000, 12, false}

// halfLoad follows a table that has that shape's cells.
func (b *bench) halfLoad(ctx context.Context, r *results) error {
	h := &halfLoad{Cell: cell{thousand, 0, 0}}
	best := 0.0
	for i := range r.Cells {
		c := &r.Cells[i]
		if c.Cell.shape != thousand || c.Cell.Saved != 0 {
			continue
		}
		best = max(best, c.Systems["intake"].Items/float64(c.Cell.Items))
		if c.Cell.Concurrency == 1 {
			h.Unloaded = c.Systems["intake"].P50
		}
	}
	if h.Unloaded == 0 {
		return nil
	}
	h.Rate = best / 2
	file, err := b.file(ctx, h.Cell)
	if err != nil {
		return err
	}
	got, err := b.replay(ctx, &b.systems[1], cell{Concurrency: 256}, file, fmt.Sprintf("--rate=%.2f", h.Rate), "--duration=10s", "--fresh-keys")
	if err != nil {
		return err
	}
	h.P50, h.P99 = got.Report.Latency.P50, got.Report.Latency.P99
	r.Half = h
	return nil
}

// growth is what is measured at a number of saved records.
type growth struct {
	Kept  int      `json:"records_kept"`
	Cells []result `json:"cells"`
}

// growth measures the same cells with more and more saved records, all of which were sent
// as batches.
func (b *bench) growth(ctx context.Context, r *results) error {
	measured := []cell{{shape{1, 12, false}, 16, 0}, {thousand, 16, 0}, {thousand, 16, 1}}
	file, err := b.file(ctx, cell{shape: thousand})
	if err != nil {
		return err
	}
	const items = 70 * 1_000 // of the file
	for _, kept := range []int{0, 1_000_000, 5_000_000} {
		have := 0
		for {
			if err := b.intake.QueryRow(ctx, "select count(*) from partner_clients").Scan(&have); err != nil {
				return err
			}
			if have >= kept {
				break
			}
			loops := max((kept-have)/items, 1)
			fmt.Fprintf(os.Stderr, "%d records are kept, %d are to be\n", have, kept)
			if _, err := b.replay(ctx, &b.systems[1], cell{Concurrency: 16}, file, fmt.Sprintf("--loop=%d", min(loops, 20)), "--fresh-keys"); err != nil {
				return err
			}
		}
		g := growth{Kept: have}
		rounds := make([][]result, len(measured))
		for range b.rounds {
			for i, cell := range measured {
				result, err := b.measure(ctx, cell)
				if err != nil {
					return err
				}
				fmt.Fprintf(os.Stderr, "%d kept: %s\n", have, result.line())
				rounds[i] = append(rounds[i], *result)
			}
		}
		for _, round := range rounds {
			g.Cells = append(g.Cells, median(round))
		}
		r.Growth = append(r.Growth, g)
	}
	return nil
}

func (r *results) printGrowth(out io.Writer) {
	t := newTable(out, "batch", "records kept", "at once", "saved", "items/s", "of the rate at first", "p50 ms", "p99", "Redis B/key", "bare save, items/s")
	for _, g := range r.Growth {
		for i := range g.Cells {
			c, first := &g.Cells[i], r.Growth[0].Cells[i].Systems["intake"]
			m := c.Systems["intake"]
			t.AppendRow(table.Row{
				fmt.Sprintf("%d × %d", c.Cell.Items, c.Cell.Claims), g.Kept, c.Cell.Concurrency, fmt.Sprintf("%.0f %%", 100*c.Cell.Saved),
				fmt.Sprintf("%.0f", m.Items), fmt.Sprintf("%.0f %%", 100*m.Items/first.Items), fmt.Sprintf("%.1f", m.P50), fmt.Sprintf("%.1f", m.P99),
				fmt.Sprintf("%.0f", m.RedisKey), fmt.Sprintf("%.0f", c.Bare/float64(c.Cell.Claims)),
			})
		}
	}
	r.render(t)
}

// A minute of the soak.
type minute struct {
	Items   float64            `json:"items_per_second"`
	P50     float64            `json:"p50_ms"`
	P99     float64            `json:"p99_ms"` // the worst second's
	Refused int                `json:"batches_not_answered"`
	Lag     uint64             `json:"messages_behind"` // at the end of the minute
	Memory  map[string]float64 `json:"mib"`             // by process, at the end of the minute
}

const soakMinutes = 5

// soak sends at two thirds of the best rate for minutes, and records the memory and the
// backlog of the worker.
func (b *bench) soak(ctx context.Context, r *results) error {
	file, err := b.file(ctx, cell{shape: thousand})
	if err != nil {
		return err
	}
	s := &b.systems[1]
	best, err := b.replay(ctx, s, cell{Concurrency: 16}, file, "--duration=15s", "--fresh-keys")
	if err != nil {
		return err
	}
	rate := float64(best.Report.Items) / best.Report.Seconds / float64(thousand.Items) * 2 / 3
	fmt.Fprintf(os.Stderr, "%.1f batches a second for %d minutes\n", rate, soakMinutes)
	var group errgroup.Group
	var got *report
	began := time.Now()
	group.Go(func() (err error) {
		got, err = b.replay(ctx, s, cell{Concurrency: 256}, file, fmt.Sprintf("--rate=%.2f", rate), fmt.Sprintf("--duration=%dm", soakMinutes), "--fresh-keys")
		return err
	})
	for n := range soakMinutes {
		select {
		case <-time.After(time.Until(began.Add(time.Duration(n+1) * time.Minute))):
		case <-ctx.Done():
			return ctx.Err()
		}
		m := minute{Memory: make(map[string]float64)}
		for _, child := range s.processes {
			m.Memory[child.name] = memory(child.cmd.Process.Pid, "VmRSS:")
		}
		if m.Lag, err = b.behind(ctx); err != nil {
			return err
		}
		r.Soak = append(r.Soak, m)
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for n := range r.Soak {
		m := &r.Soak[n]
		seconds := got.Report.Timeline[min(n*60, len(got.Report.Timeline)):min(n*60+60, len(got.Report.Timeline))]
		for _, second := range seconds {
			m.Items += float64(second.Items) / float64(len(seconds))
			m.P50 += second.P50 / float64(len(seconds))
			m.P99 = max(m.P99, second.P99)
			m.Refused += second.Failed
		}
	}
	return nil
}

// behind returns the number of messages of the log that are not processed yet.
func (b *bench) behind(ctx context.Context) (uint64, error) {
	nc, err := nats.Connect(b.nats)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	stream, err := js.Stream(ctx, "INTAKE")
	if err != nil {
		return 0, err
	}
	var behind uint64
	consumers := stream.ListConsumers(ctx)
	for info := range consumers.Info() {
		behind += info.NumPending + uint64(info.NumAckPending)
	}
	return behind, consumers.Err()
}

func (r *results) printSoak(out io.Writer) {
	t := newTable(out, "minute", "items/s", "p50 ms", "worst p99", "refused", "messages behind", "front MiB", "worker MiB", "nats MiB")
	for n, m := range r.Soak {
		t.AppendRow(table.Row{
			n + 1, fmt.Sprintf("%.0f", m.Items), fmt.Sprintf("%.1f", m.P50), fmt.Sprintf("%.1f", m.P99), m.Refused, m.Lag,
			fmt.Sprintf("%.0f", m.Memory["front"]), fmt.Sprintf("%.0f", m.Memory["worker"]), fmt.Sprintf("%.0f", m.Memory["nats"]),
		})
	}
	r.render(t)
}
