package main

import (
	"context"
	"fmt"
	"net/http"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// metricsOf reads the metrics of an admin listener.
func metricsOf(ctx context.Context, address string) (map[string]*dto.MetricFamily, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics of %s: %s", address, response.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(response.Body)
}

// scrape adds the counters of an admin listener, and the sums and counts of its
// histograms, each over all labels.
func scrape(ctx context.Context, address string, sums map[string]float64) error {
	families, err := metricsOf(ctx, address)
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
