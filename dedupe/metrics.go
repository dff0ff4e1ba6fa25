package dedupe

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	asks       *prometheus.CounterVec
	askSeconds prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := promauto.With(r)
	return &metrics{
		asks: m.NewCounterVec(prometheus.CounterOpts{
			Name: "intake_dedupe_asks_total",
			Help: "Batches whose keys Redis was asked for: answered, partly (a large batch, as far as there was time), failed (away or slow), or skipped because it was away just now, too many asked, or the timeline is not known.",
		}, []string{"outcome"}),
		askSeconds: m.NewHistogram(prometheus.HistogramOpts{
			Name: "intake_dedupe_ask_seconds", Help: "Time of an ask that was answered.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2, 10),
		}),
	}
}
