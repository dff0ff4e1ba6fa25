package main

import (
	"context"

	dto "github.com/prometheus/client_model/go"

	"intake/internal/scrape"
)

// addMetrics adds the counters of an admin listener, and the sums and counts of its
// histograms, each over all labels.
func addMetrics(ctx context.Context, address string, sums map[string]float64) error {
	families, err := scrape.Metrics(ctx, "http://"+address+"/metrics")
	if err != nil {
		return err
	}
	for name, family := range families {
		for _, metric := range family.Metric {
			switch family.GetType() {
			case dto.MetricType_COUNTER:
				sums[name] += metric.Counter.GetValue()
			case dto.MetricType_HISTOGRAM:
				sums[name+"_sum"] += metric.Histogram.GetSampleSum()
				sums[name+"_count"] += float64(metric.Histogram.GetSampleCount())
			}
		}
	}
	return nil
}
