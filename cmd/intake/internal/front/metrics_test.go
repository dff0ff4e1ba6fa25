package front_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"intake"
	"intake/worker/queue"
)

// Requests are counted by how they were answered, also those that were not.
func TestFront_Metrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	f := newFront(t, func(o *options) { o.Registerer = registry })
	token := f.token(t)
	post := func(token, body string) {
		defer func() { _ = recover() }() // the request is broken off
		f.ServeHTTP(newAnswer(), f.create(t, token, strings.NewReader(body)))
	}
	post(token, items("a", "b"))
	post(token, "[{}]")
	post("x", items("a"))
	f.queue.submit = func(context.Context, *intake.Batch) (queue.Ticket, error) { return nil, queue.ErrUncertain }
	post(token, items("a"))
	got := map[string]float64{}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.Metric {
			name := family.GetName()
			for _, label := range metric.Label {
				name += fmt.Sprintf("{%s=%s}", label.GetName(), label.GetValue())
			}
			got[name] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue() +
				float64(metric.GetHistogram().GetSampleCount())
		}
	}
	want := map[string]float64{
		"intake_front_requests_total{status=0}":              1,
		"intake_front_requests_total{status=200}":            3, // one for the token
		"intake_front_requests_total{status=401}":            1,
		"intake_front_refused_seconds":                       0,
		"intake_front_request_seconds":                       5,
		"intake_front_items_received_total":                  4,
		"intake_front_items_stateless_total{why=broken_off}": 1,
		"intake_front_items_total{code=saved}":               2,
		"intake_front_items_total{code=invalid}":             1,
		"intake_front_body_bytes_total": float64(len(items("a", "b")) + len("[{}]") +
			len(items("a"))),
		"intake_front_inflight_bytes":            0,
		"intake_front_connections_refused_total": 0,
		"intake_front_question_bytes":            0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
