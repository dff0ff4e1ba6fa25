package worker

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/zap"

	"intake/internal/safety"
)

// One of several servers may be away: those that answer tell how they sync. While
// none does, nothing is known, and one that doesn't sync is enough to refuse.
func TestCheck_Monitors(t *testing.T) {
	t.Parallel()
	monitor := func(answer string) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
		t.Cleanup(server.Close)
		return server.URL
	}
	syncs, lazy, away := monitor(`{"config":{"sync_always":true}}`), monitor(`{"config":{"sync_interval":120000000000}}`), "http://127.0.0.1:1"
	r := newRig(t)
	for name, test := range map[string]struct {
		monitors        []string
		passed, refused bool
	}{
		"none given":        {nil, true, false},
		"all sync":          {[]string{syncs, syncs}, true, false},
		"one is away":       {[]string{away, syncs, syncs}, true, false},
		"all are away":      {[]string{away, away}, false, false},
		"one doesn't sync":  {[]string{syncs, lazy}, false, true},
		"away, or not sync": {[]string{away, lazy}, false, true},
	} {
		err := Check{MonitorURLs: test.monitors}.check(t.Context(), r.nc, StreamOptions{}, zap.NewNop())
		var breach *safety.Breach
		if (err == nil) != test.passed || errors.As(err, &breach) != test.refused {
			t.Errorf("%s: %v", name, err)
		}
	}
}
