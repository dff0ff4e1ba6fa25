package admin_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"intake/cmd/intake/internal/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves a handler until the test ends.
func start(t *testing.T, h *admin.Handler) (get func(path string) (status int, said string)) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- h.Serve(ctx, listener) }()
	transport := &http.Transport{}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	client := &http.Client{Transport: transport}
	return func(path string) (int, string) {
		t.Helper()
		response, err := client.Get("http://" + listener.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		said, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(said)
	}
}

func TestHandler(t *testing.T) {
	t.Parallel()
	get := start(t, admin.New(admin.NewRegistry(),
		admin.Check{Name: "queue", Check: func(context.Context) error { return nil }}))
	for path, says := range map[string]string{
		"/livez":               "ok",
		"/readyz":              "ok",
		"/metrics":             "go_goroutines ",
		"/debug/pprof/":        "goroutine",
		"/debug/pprof/cmdline": "admin",
	} {
		if status, said := get(path); status != http.StatusOK || !strings.Contains(said, says) {
			t.Errorf("%s: answered %d %s", path, status, said)
		}
	}
	if status, _ := get("/"); status != http.StatusNotFound {
		t.Errorf("/: answered %d", status)
	}
}

// Operators are told why a part isn't ready, partners only which.
func TestHandler_NotReady(t *testing.T) {
	t.Parallel()
	away := func(context.Context) error { return errors.New("nats at 10.0.0.1 is away") }
	h := admin.New(admin.NewRegistry(),
		admin.Check{Name: "queue", Check: away},
		admin.Check{Name: "partners", Check: func(context.Context) error { return nil }},
		admin.Check{Name: "postgres", Check: away})
	get := start(t, h)
	if status, said := get("/readyz"); status != http.StatusServiceUnavailable ||
		said != "queue: nats at 10.0.0.1 is away\npostgres: nats at 10.0.0.1 is away\n" {
		t.Errorf("operators are told %d %s", status, said)
	}
	w := httptest.NewRecorder()
	h.ServeReady(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	if w.Code != http.StatusServiceUnavailable || w.Body.String() != "not ready: queue, postgres\n" {
		t.Errorf("partners are told %d %s", w.Code, w.Body)
	}
	if status, _ := get("/livez"); status != http.StatusOK {
		t.Errorf("/livez: answered %d", status)
	}
}

// From the beginning of its shutdown on it isn't ready, however ready its parts are.
func TestHandler_Drain(t *testing.T) {
	t.Parallel()
	h := admin.New(admin.NewRegistry())
	get := start(t, h)
	if status, _ := get("/readyz"); status != http.StatusOK || h.Ready(t.Context()) != nil {
		t.Errorf("/readyz: answered %d", status)
	}
	h.Drain()
	if status, said := get("/readyz"); status != http.StatusServiceUnavailable || said != "shutting down\n" ||
		h.Ready(t.Context()) == nil {
		t.Errorf("/readyz: answered %d %s", status, said)
	}
}

// Many who ask at once cost the parts one check.
func TestHandler_AskedOften(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	checks := 0
	asked := make(chan struct{})
	h := admin.New(admin.NewRegistry(), admin.Check{Name: "queue", Check: func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		checks++
		<-asked
		return nil
	}})
	var asking sync.WaitGroup
	for range 100 {
		asking.Go(func() { h.ServeReady(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/readyz", nil)) })
	}
	close(asked)
	asking.Wait()
	if checks > 10 {
		t.Errorf("%d checks for 100 that asked at once", checks)
	}
}
