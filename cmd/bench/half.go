package main

import (
	"context"
	"fmt"
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
	return fmt.Sprintf("at half of the best rate, %.1f batches of %d × %d a second: p50 %.1f ms, p99 %.1f ms, "+
		"%.1f times the p50 of %.1f ms of one request at a time",
		h.Rate, h.Cell.Items, h.Cell.Claims, h.P50, h.P99, h.P99/h.Unloaded, h.Unloaded)
}

// halfLoad follows cells of that shape; without them there is nothing to measure.
func (b *bench) halfLoad(ctx context.Context, s *system, cells []result) (*halfLoad, error) {
	h := &halfLoad{Cell: cell{shape: thousand, Concurrency: 256}}
	best := 0.0
	for i := range cells {
		c := &cells[i]
		switch c.Cell {
		case cell{shape: thousand, Concurrency: 16}:
			best = c.of(s.name, itemsOf).Median / float64(c.Cell.Items)
		case cell{shape: thousand, Concurrency: 1}:
			h.Unloaded = c.of(s.name, p50Of).Median
		}
	}
	if best == 0 {
		return nil, nil
	}
	file, err := b.file(ctx, cell{shape: thousand, Concurrency: 16})
	if err != nil {
		return nil, err
	}
	if h.Unloaded == 0 {
		got, err := b.replay(ctx, s, cell{Concurrency: 1}, file, "--duration=5s", "--fresh-keys")
		if err != nil {
			return nil, err
		}
		h.Unloaded = got.Report.Latency.P50
	}
	h.Rate = best / 2
	got, err := b.replay(ctx, s, h.Cell, file, fmt.Sprintf("--rate=%.2f", h.Rate), "--duration=10s", "--fresh-keys")
	if err != nil {
		return nil, err
	}
	h.P50, h.P99 = got.Report.Latency.P50, got.Report.Latency.P99
	return h, nil
}
