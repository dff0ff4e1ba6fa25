package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"golang.org/x/sync/errgroup"
)

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
	s, err := b.startAlone(ctx)
	if err != nil {
		return err
	}
	file, err := b.file(ctx, cell{shape: thousand})
	if err != nil {
		return err
	}
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
		got, err = b.replay(ctx, s, cell{Concurrency: 256}, file,
			fmt.Sprintf("--rate=%.2f", rate), fmt.Sprintf("--duration=%dm", soakMinutes), "--fresh-keys")
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
		if m.Lag, err = s.behind(ctx); err != nil {
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

func (r *results) printSoak(out io.Writer) {
	t := newTable(out, "minute", "items/s", "p50 ms", "worst p99", "refused",
		"messages behind", "front MiB", "worker MiB", "nats MiB")
	for n, m := range r.Soak {
		t.AppendRow(table.Row{
			n + 1, fmt.Sprintf("%.0f", m.Items), fmt.Sprintf("%.1f", m.P50), fmt.Sprintf("%.1f", m.P99), m.Refused,
			m.Lag,
			fmt.Sprintf("%.0f", m.Memory["front"]), fmt.Sprintf("%.0f", m.Memory["worker"]),
			fmt.Sprintf("%.0f", m.Memory["nats"]),
		})
	}
	r.render(t)
}
