package auth

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type issuerMetrics struct {
	fetches *prometheus.CounterVec
	read    prometheus.Gauge
}

func newIssuerMetrics(r prometheus.Registerer) *issuerMetrics {
	m := promauto.With(r)
	i := &issuerMetrics{
		fetches: m.NewCounterVec(prometheus.CounterOpts{
			Name: "intake_front_issuer_fetches_total", Help: "Fetches of the external issuer's keys, by outcome.",
		}, []string{"outcome"}),
		read: m.NewGauge(prometheus.GaugeOpts{
			Name: "intake_front_issuer_keys_read_timestamp_seconds",
			Help: "When the external issuer's keys were last read, in Unix time; 0: never.",
		}),
	}
	for _, outcome := range []string{"read", "failed"} {
		i.fetches.WithLabelValues(outcome)
	}
	return i
}
