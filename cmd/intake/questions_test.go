package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"intake/internal/local/localtest"
)

// Postgres hangs while many ask for what it knows: they are told to come again, and
// batches are accepted as ever.
func TestQuestions_PostgresHangs(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	postgres, err := url.Parse(localtest.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	proxy := toxiproxy.NewProxy(server, t.Name(), "127.0.0.1:0", postgres.Host)
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Stop)
	postgres.Host = proxy.Listen
	s := startStack(t, stackOptions{flags: serverFlags{PostgresURL: postgres.String(), AllowUnsafe: true}})
	f := s.fronts[0]
	client := s.client(ctx, f, "acme", s.secret)
	saved, err := post(ctx, client, f, []byte("["+itemOf("saved", 1)+"]"), "respond-async")
	if err != nil || saved.http != http.StatusAccepted {
		t.Fatalf("%+v %v", saved, err)
	}
	final(t, client, f, saved.ID)

	const hangs = `{"name":"hangs","type":"timeout","attributes":{"timeout":0}}`
	if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(hangs)); err != nil {
		t.Fatal(err)
	}
	ask := func(method, path, body, prefer string) (status int, retry string) {
		request, err := http.NewRequestWithContext(ctx, method, f.url()+path, bytes.NewReader([]byte(body)))
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Prefer", prefer)
		response, err := client.Do(request)
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		response.Body.Close()
		return response.StatusCode, response.Header.Get("Retry-After")
	}
	questions := []struct{ method, path, body, prefer string }{
		{http.MethodGet, "/api/v1/clients/status/" + saved.ID, "", ""},
		{http.MethodGet, "/api/v1/clients/saved", "", ""},
		{http.MethodPost, "/api/v1/clients/reconcile", `["saved"]`, ""},
		{http.MethodPost, "/api/v1/clients", "[" + itemOf("dry", 1) + "]", "handling=validate"},
	}
	const each = 24
	var asking sync.WaitGroup
	for _, q := range questions {
		for range each {
			asking.Go(func() {
				if status, retry := ask(q.method, q.path, q.body, q.prefer); status != http.StatusServiceUnavailable ||
					retry == "" {
					t.Errorf("%s %s is answered %d, Retry-After %q", q.method, q.path, status, retry)
				}
			})
		}
	}
	localtest.Eventually(t, "all have asked",
		func() bool { return gauge(t, f.metrics, "intake_front_question_bytes") >= 2*each*16<<10 })
	var ids []string
	for n, prefer := range []string{"respond-async", "wait=1", "respond-async"} {
		a, err := post(ctx, client, f, []byte("["+itemOf(fmt.Sprint("new-", n), 1)+"]"), prefer)
		if err != nil || a.http != http.StatusAccepted {
			t.Fatalf("%s: %+v %v", prefer, a, err)
		}
		ids = append(ids, a.ID)
	}
	asking.Wait()

	if err := proxy.Toxics.RemoveToxic(ctx, "hangs"); err != nil {
		t.Fatal(err)
	}
	for _, id := range append(ids, saved.ID) {
		localtest.Eventually(t, "the batch is final", func() bool {
			a, err := check(ctx, client, f, id)
			if err == nil && a.http == http.StatusNotFound {
				t.Fatalf("the status of %s is 404", id)
			}
			return err == nil && a.http == http.StatusOK && a.Status == "Completed"
		})
	}
	for _, q := range questions {
		localtest.Eventually(t, q.path+" is answered", func() bool {
			status, _ := ask(q.method, q.path, q.body, q.prefer)
			return status == http.StatusOK
		})
	}
	if held := gauge(t, f.metrics, "intake_front_question_bytes"); held != 0 {
		t.Errorf("%.0f bytes are still set aside for questions", held)
	}
}
