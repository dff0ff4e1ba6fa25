package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"intake/internal/scrape"
)

// An overload is the result of sending more than can be saved.
type overload struct {
	Cell cell `json:"cell"`
	// Items a second that were saved at the best rate, and in the overload.
	Best    float64 `json:"best_items_per_second"`
	Offered float64 `json:"offered_items_per_second"`
	Saved   float64 `json:"saved_items_per_second"`
	// Of the processors, what the load itself has used.
	BestLoad float64 `json:"load_cpu_at_best"`
	Load     float64 `json:"load_cpu"`
	Refused  int     `json:"batches_refused"`
	// Time until a request was refused, as the front measures it, which is an upper
	// bound, and as the load measures it, which lacks processor time then.
	P50       float64 `json:"refused_p50_ms"`
	P99       float64 `json:"refused_p99_ms"`
	ClientP50 float64 `json:"refused_p50_ms_at_client"`
	Other     int     `json:"batches_without_an_answer"`
	Memory    float64 `json:"peak_mib"` // of front and worker
	// After it: until nothing is queued any more, and what one request takes then,
	// beside what it took before.
	Drained float64 `json:"drained_after_s"`
	Before  float64 `json:"probe_before_p50_ms"`
	After   float64 `json:"probe_after_p50_ms"`
}

// overloadCells are the batches of which too many are sent.
const overloadCells = "1x12@64,1x12@64+async,100x12@64,100x12@64+async"

const overloadDuration = 30 * time.Second

// overload sends five times what can be saved. Requests are sent when they are due,
// whether or not earlier ones are answered.
func (b *bench) overload(ctx context.Context, r *results) error {
	s, err := b.startAlone(ctx)
	if err != nil {
		return err
	}
	probe, err := b.file(ctx, cell{shape: shape{1, 12, false}})
	if err != nil {
		return err
	}
	for _, c := range b.cells {
		o := overload{Cell: c}
		file, err := b.file(ctx, c)
		if err != nil {
			return err
		}
		probing := func() (float64, error) {
			got, err := b.replay(ctx, s, cell{Concurrency: 4}, probe, "--rate=20", "--duration=3s", "--fresh-keys")
			if err != nil {
				return 0, err
			}
			return got.Report.Latency.P50, nil
		}
		if o.Before, err = probing(); err != nil {
			return err
		}
		var before, after int
		count := func(n *int) (err error) {
			*n, err = s.records(ctx)
			return err
		}
		if err := count(&before); err != nil {
			return err
		}
		began := time.Now()
		best, err := b.replay(ctx, s, c, file, "--duration=10s", "--fresh-keys")
		if err != nil {
			return err
		}
		if err := s.drained(ctx); err != nil {
			return err
		}
		if err := count(&after); err != nil {
			return err
		}
		o.Best = float64(after-before) / time.Since(began).Seconds()
		o.BestLoad = best.Report.CPU / time.Since(began).Seconds()
		rate := 5 * o.Best / float64(c.Items)
		o.Offered = 5 * o.Best
		fmt.Fprintf(os.Stderr, "%s: at best %.0f items a second, now %.0f batches a second\n", o.Cell, o.Best, rate)
		for _, child := range s.processes {
			peakMemory(child.cmd.Process.Pid)
		}
		if err := count(&before); err != nil {
			return err
		}
		refusedBefore, err := refusals(ctx, s.admins["front"])
		if err != nil {
			return err
		}
		began = time.Now()
		done := make(chan error, 1)
		var got *report
		go func() {
			var err error
			got, err = b.replay(ctx, s, cell{Concurrency: 4_096, Async: c.Async}, file,
				fmt.Sprintf("--rate=%.2f", rate), "--duration="+overloadDuration.String(), "--fresh-keys")
			done <- err
		}()
		select {
		case <-time.After(overloadDuration):
		case err := <-done:
			return fmt.Errorf("the load ended early (%w)", err)
		}
		if err := count(&after); err != nil {
			return err
		}
		o.Saved = float64(after-before) / time.Since(began).Seconds()
		if err := <-done; err != nil {
			return err
		}
		ended := time.Now()
		o.Load = got.Report.CPU / got.Report.Seconds
		o.Refused, o.Other = got.Report.Statuses["503"], got.Report.Statuses["0"]
		o.ClientP50 = got.Report.Refused.P50
		refused, err := refusals(ctx, s.admins["front"])
		if err != nil {
			return err
		}
		o.P50, o.P99 = quantile(0.5, refusedBefore, refused), quantile(0.99, refusedBefore, refused)
		for _, child := range s.processes[:2] {
			o.Memory += peakMemory(child.cmd.Process.Pid)
		}
		if err := s.drained(ctx); err != nil {
			return err
		}
		o.Drained = time.Since(ended).Seconds()
		if o.After, err = probing(); err != nil {
			return err
		}
		r.Overload = append(r.Overload, o)
	}
	return nil
}

// ofBest returns the rate of saving in proportion to the best one, corrected for the
// processor time that the load has used.
func (o *overload) ofBest() float64 {
	processors := float64(runtime.NumCPU())
	return o.Saved / (processors - o.Load) / (o.Best / (processors - o.BestLoad))
}

// refusals returns the histogram of the times of the front's refusals: the number of them
// by their upper bound in milliseconds.
func refusals(ctx context.Context, admin string) (map[float64]uint64, error) {
	families, err := scrape.Metrics(ctx, "http://"+admin+"/metrics")
	if err != nil {
		return nil, err
	}
	counts := make(map[float64]uint64)
	for _, metric := range families["intake_front_refused_seconds"].GetMetric() {
		for _, bucket := range metric.Histogram.Bucket {
			counts[1e3*bucket.GetUpperBound()] = bucket.GetCumulativeCount()
		}
	}
	return counts, nil
}

// quantile returns the bound below which a share of the values between two looks is, or 0
// if there are none.
func quantile(part float64, before, after map[float64]uint64) float64 {
	bounds := slices.Sorted(maps.Keys(after))
	if len(bounds) == 0 {
		return 0
	}
	last := bounds[len(bounds)-1]
	all := after[last] - before[last]
	for _, bound := range bounds {
		if n := after[bound] - before[bound]; all > 0 && float64(n) >= part*float64(all) {
			return bound
		}
	}
	return 0
}

func (r *results) printOverload(out io.Writer) {
	t := newTable(out, "batch", "items", "best, items/s", "offered", "saved", "of best",
		"load's CPU at best", "in overload", "of best per CPU left", "refused",
		"refused p50 ms, at most", "p99", "p50 at the client", "no answer", "MiB",
		"drained after s", "probe before p50 ms", "after")
	whole := func(value float64) string { return fmt.Sprintf("%.0f", value) }
	tenths := func(value float64) string { return fmt.Sprintf("%.1f", value) }
	share := func(value float64) string { return fmt.Sprintf("%.0f %%", 100*value) }
	for _, o := range r.Overload {
		t.AppendRow(table.Row{
			o.Cell.batch(), o.Cell.what(), whole(o.Best), whole(o.Offered), whole(o.Saved), share(o.Saved / o.Best),
			fmt.Sprintf("%.2f", o.BestLoad), fmt.Sprintf("%.2f", o.Load), share(o.ofBest()), o.Refused,
			tenths(o.P50), tenths(o.P99), tenths(o.ClientP50), o.Other, whole(o.Memory),
			tenths(o.Drained), tenths(o.Before), tenths(o.After),
		})
	}
	r.render(t)
}
