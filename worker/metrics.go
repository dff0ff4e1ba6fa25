package worker

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"intake/worker/queue"
)

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

// laterLanes is the metrics' label for all later lanes together.
const laterLanes = "later"

func newWorkerMetrics(r prometheus.Registerer) *workerMetrics {
	m := promauto.With(r)
	w := &workerMetrics{
		gathering: m.NewHistogram(prometheus.HistogramOpts{
			Name: "intake_worker_gathering_items", Help: "Items that one transaction was to save.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 14),
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
			Name: "intake_worker_dead_messages_total",
			Help: "Messages that could not be read or saved and went to the dead letters.",
		}),
		marks: m.NewCounterVec(prometheus.CounterOpts{
			Name: "intake_worker_marks_total",
			Help: "Gatherings whose keys were marked as seen, failed to be, or were skipped because marking was behind.",
		}, []string{"outcome"}),
		held: m.NewGauge(prometheus.GaugeOpts{
			Name: "intake_worker_held_messages", Help: "Messages that the worker has fetched and not acknowledged yet.",
		}),
		age: m.NewGaugeVec(prometheus.GaugeOpts{
			Name: "intake_worker_oldest_unprocessed_age_seconds",
			Help: "How long the oldest unprocessed message of the queue has waited, whichever worker has it; 0 without any.",
		}, []string{"lane"}),
	}
	for _, lane := range []string{queue.WaitingLane, laterLanes} {
		w.age.WithLabelValues(lane)
	}
	return w
}
