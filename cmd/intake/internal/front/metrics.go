package front

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	requests  *prometheus.CounterVec
	seconds   prometheus.Histogram
	received  prometheus.Counter
	refused   prometheus.Histogram
	items     *prometheus.CounterVec
	stateless *prometheus.CounterVec
	bytes     prometheus.Counter
	inflight  prometheus.Gauge
	// refusedConnections counts connections of a host that had too many.
	refusedConnections prometheus.Counter
	questions          prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := promauto.With(r)
	return &metrics{
		requests: m.NewCounterVec(prometheus.CounterOpts{
			Name: "intake_front_requests_total",
			Help: "Requests by the status of their answer; 0: broken off without one.",
		}, []string{"status"}),
		seconds: m.NewHistogram(prometheus.HistogramOpts{
			Name: "intake_front_request_seconds", Help: "Time of a request, from its headers to the end of its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 17),
		}),
		refused: m.NewHistogram(prometheus.HistogramOpts{
			Name:    "intake_front_refused_seconds",
			Help:    "Time of a request that was refused with 429 or 503, from its headers to the end of its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
		}),
		items: m.NewCounterVec(prometheus.CounterOpts{
			Name: "intake_front_items_total", Help: "Items by the code that they were answered with.",
		}, []string{"code"}),
		received: m.NewCounter(prometheus.CounterOpts{
			Name: "intake_front_items_received_total",
			Help: "Items that were read. When its request ends, each is counted in intake_front_items_total or " +
				"intake_front_items_stateless_total.",
		}),
		stateless: m.NewCounterVec(prometheus.CounterOpts{
			Name: "intake_front_items_stateless_total",
			Help: "Items that were read and got no state: their request was refused, broken off, a repeat that got " +
				"its first answer again, or a dry run.",
		}, []string{"why"}),
		bytes: m.NewCounter(prometheus.CounterOpts{
			Name: "intake_front_body_bytes_total", Help: "Bytes of batches, after decompression.",
		}),
		refusedConnections: m.NewCounter(prometheus.CounterOpts{
			Name: "intake_front_connections_refused_total",
			Help: "Connections closed because their address had --max-connections-per-address open.",
		}),
		inflight: m.NewGauge(prometheus.GaugeOpts{
			Name: "intake_front_inflight_bytes",
			Help: "Memory set aside for batches in flight, bounded by --max-inflight-bytes.",
		}),
		questions: m.NewGauge(prometheus.GaugeOpts{
			Name: "intake_front_question_bytes",
			Help: "Memory set aside for questions in flight: status checks, records, reconcile and dry runs.",
		}),
	}
}
