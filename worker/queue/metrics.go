package queue

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type queueMetrics struct {
	publish   prometheus.Histogram
	items     prometheus.Histogram
	published prometheus.Counter
	failures  *prometheus.CounterVec
	backlog   prometheus.Gauge
}

func newQueueMetrics(r prometheus.Registerer) *queueMetrics {
	m := promauto.With(r)
	return &queueMetrics{
		publish: m.NewHistogram(prometheus.HistogramOpts{
			Name: "intake_queue_publish_seconds", Help: "Time of one publish to the stream, failed ones included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		items: m.NewHistogram(prometheus.HistogramOpts{
			Name: "intake_queue_publish_items", Help: "Items of the batches that one publish queued together.",
			Buckets: prometheus.ExponentialBuckets(1, 4, 8),
		}),
		published: m.NewCounter(prometheus.CounterOpts{
			Name: "intake_queue_published_messages_total",
			Help: "Messages that are known to be queued; each holds several batches, or a part of one.",
		}),
		failures: m.NewCounterVec(prometheus.CounterOpts{
			Name: "intake_queue_failures_total",
			Help: "Batches that were not queued: refused by JetStream, withdrawn after no answer, or uncertain.",
		}, []string{"kind"}),
		backlog: m.NewGauge(prometheus.GaugeOpts{
			Name: "intake_queue_backlog_messages",
			Help: "Messages queued and not processed, as of the front's last look. It looks while batches come.",
		}),
	}
}
