package worker

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type queueMetrics struct {
	publish   prometheus.Histogram
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
		published: m.NewCounter(prometheus.CounterOpts{
			Name: "intake_queue_published_messages_total", Help: "Messages that are known to be queued; each holds several batches, or a part of one.",
		}),
		failures: m.NewCounterVec(prometheus.CounterOpts{
			Name: "intake_queue_failures_total", Help: "Batches that were not queued: refused by JetStream, withdrawn after no answer, or uncertain.",
		}, []string{"kind"}),
		backlog: m.NewGauge(prometheus.GaugeOpts{
			Name: "intake_queue_backlog_messages", Help: "Messages queued and not processed, as this front has seen it last; it looks while batches come.",
		}),
	}
}

type workerMetrics struct {
	gathering   prometheus.Histogram
	save        prometheus.Histogram
	failures    prometheus.Counter
	items       *prometheus.CounterVec
	redelivered prometheus.Counter
	dead        prometheus.Counter
	marks       *prometheus.CounterVec
	held        prometheus.Gauge
	age         *prometheus.GaugeVec
}

func newWorkerMetrics(r prometheus.Registerer) *workerMetrics {
	m := promauto.With(r)
	w := &workerMetrics{
		gathering: m.NewHistogram(prometheus.HistogramOpts{
			Name: "intake_worker_gathering_items", Help: "Items that one transaction was to save.",
			Buckets: prometheus.ExponentialBuckets(1, 4, 8),
		}),
		save: m.NewHistogram(prometheus.HistogramOpts{
			Name: "intake_worker_save_seconds", Help: "Time of one transaction, failed ones included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}),
		failures: m.NewCounter(prometheus.CounterOpts{
			Name: "intake_worker_save_failures_total", Help: "Transactions that failed and are tried again.",
		}),
		items: m.NewCounterVec(prometheus.CounterOpts{
			Name: "intake_worker_items_total", Help: "Items that were queued, by the code that they ended with.",
		}, []string{"code"}),
		redelivered: m.NewCounter(prometheus.CounterOpts{
			Name: "intake_worker_redelivered_messages_total", Help: "Messages that had been delivered before.",
		}),
		dead: m.NewCounter(prometheus.CounterOpts{
			Name: "intake_worker_dead_messages_total", Help: "Messages that could not be read or saved and went to the dead letters.",
		}),
		marks: m.NewCounterVec(prometheus.CounterOpts{
			Name: "intake_worker_marks_total", Help: "Gatherings whose keys were marked as seen, failed to be, or were skipped because marking was behind.",
		}, []string{"outcome"}),
		held: m.NewGauge(prometheus.GaugeOpts{
			Name: "intake_worker_held_messages", Help: "Messages that the worker has taken and not acknowledged yet.",
		}),
		age: m.NewGaugeVec(prometheus.GaugeOpts{
			Name: "intake_worker_oldest_unprocessed_age_seconds",
			Help: "How long the oldest message of the queue that is not processed has waited, whichever worker has it; 0 if there is none.",
		}, []string{"lane"}),
	}
	for _, lane := range []string{waitingLane, anyLater} {
		w.age.WithLabelValues(lane)
	}
	return w
}
