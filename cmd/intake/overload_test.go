package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"intake/internal/local/localtest"
)

// More comes than can be saved: what is refused is told when to come back, and
// nothing of it is saved; what was accepted is; and then all is as before.
func TestLong_Overload(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	postgres := localtest.Postgres(t)
	proxy := proxyTo(t, &postgres)
	s := startStack(t, stackOptions{flags: serverFlags{PostgresURL: postgres, AllowUnsafe: true}, fronts: 2,
		maxBacklog: time.Second})
	const slow = `{"name":"slow","type":"latency","attributes":{"latency":150}}`
	if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(slow)); err != nil {
		t.Fatal(err)
	}
	const (
		clients = 12
		perOne  = 300 // batches at most
		size    = 50
	)
	watched, stopWatching := context.WithCancel(ctx)
	var watching sync.WaitGroup
	for _, f := range s.fronts {
		watching.Go(func() {
			for watched.Err() == nil {
				if held := inflight(t, f); held > maxInflightBytes {
					t.Errorf("requests take %.0f bytes", held)
				}
				<-time.After(5 * time.Millisecond)
			}
		})
	}
	var mu sync.Mutex
	var accepted, refused []string
	refusals := 0
	var running sync.WaitGroup
	for n := range clients {
		f := s.fronts[n%len(s.fronts)]
		client := s.client(ctx, f, "acme", s.secret)
		running.Go(func() {
			for batch := 0; batch < perOne && ctx.Err() == nil; batch++ {
				ids, items := make([]string, size), make([]string, size)
				for i := range ids {
					ids[i] = fmt.Sprintf("%d-%d-%d", n, batch, i)
					items[i] = itemOf(ids[i], 1)
				}
				a, err := post(ctx, client, f, []byte("["+strings.Join(items, ",")+"]"),
					"respond-async, return=minimal")
				mu.Lock()
				switch {
				case err == nil && a.http == http.StatusAccepted:
					accepted = append(accepted, ids...)
				case err == nil && a.http == http.StatusServiceUnavailable:
					refused, refusals = append(refused, ids...), refusals+1
					if seconds, err := strconv.Atoi(a.retry); err != nil || seconds < 1 || seconds > 60 {
						t.Errorf("Retry-After: %q", a.retry)
					}
				default:
					t.Errorf("answered %d %s (%v)", a.http, a.refused.Detail, err)
				}
				enough := refusals >= 2*clients
				mu.Unlock()
				if enough {
					return
				}
				<-time.After(100 * time.Millisecond)
			}
		})
	}
	running.Wait()
	stopWatching()
	watching.Wait()
	if refusals == 0 {
		t.Errorf("nothing was refused, with %d items accepted", len(accepted))
	}
	proxy.Toxics.ResetToxics(ctx)
	localtest.Eventually(t, "all that was accepted is saved", func() bool {
		return s.count(t, "select count(*) from partner_clients") >= len(accepted)
	})
	localtest.Eventually(t, "batches are accepted again", func() bool {
		f := s.fronts[0]
		a, err := post(ctx, s.client(ctx, f, "acme", s.secret), f, []byte("["+itemOf("after", 1)+"]"), "wait=30")
		return err == nil && a.http == http.StatusOK
	})
	for _, f := range s.fronts {
		if held := inflight(t, f); held != 0 {
			t.Errorf("%.0f bytes are still set aside", held)
		}
	}
	if n := s.count(t, "select count(*) from partner_clients where partner_client_id = any($1)",
		slices.Concat(refused, accepted)); n != len(accepted) {
		t.Errorf("%d records, of %d that were accepted and %d that were refused", n, len(accepted), len(refused))
	}
	t.Logf("%d items accepted, %d batches refused", len(accepted), refusals)
}

// Postgres is away, and clients that wait for nothing send on until it takes long to
// save what is queued. Fronts that refuse all of them then take batches again as soon
// as it is saved, however long ago they took the last one.
func TestLong_Overload_AfterAnOutage(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	postgres := localtest.Postgres(t)
	proxy := proxyTo(t, &postgres)
	s := startStack(t, stackOptions{flags: serverFlags{PostgresURL: postgres, AllowUnsafe: true}, fronts: 2,
		maxBacklog: time.Second})
	clients := make(map[*frontProcess]*http.Client)
	for _, f := range s.fronts {
		clients[f] = s.client(ctx, f, "acme", s.secret)
	}
	create := func(f *frontProcess, id string, items int) answer {
		t.Helper()
		batch := make([]string, items)
		for i := range batch {
			batch[i] = itemOf(fmt.Sprint(id, "-", i), 1)
		}
		a, err := post(ctx, clients[f], f, []byte("["+strings.Join(batch, ",")+"]"), "respond-async, return=minimal")
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	proxy.Stop()
	const batches, size = 40, 500
	accepted := batches * size
	for n := range batches {
		if a := create(s.fronts[n%2], fmt.Sprint("during-", n), size); a.http != http.StatusAccepted {
			t.Fatalf("with Postgres away answered %d %s", a.http, a.refused.Detail)
		}
	}
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	// Slow enough that what is queued takes longer than a front remembers a batch.
	if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(`{"name":"slow","type":"latency","attributes":{"latency":600}}`)); err != nil {
		t.Fatal(err)
	}
	for n, f := range s.fronts {
		localtest.Eventually(t, "the front refuses batches", func() bool {
			a := create(f, fmt.Sprint("slow-", n, "-", accepted), 1)
			if a.http == http.StatusAccepted {
				accepted++
			}
			return a.http == http.StatusServiceUnavailable
		})
	}
	for s.count(t, "select count(*) from partner_clients") < accepted {
		if ctx.Err() != nil {
			t.Fatal("what was accepted is not saved")
		}
		<-time.After(50 * time.Millisecond)
	}
	for n, f := range s.fronts {
		localtest.Eventually(t, "the front takes batches again", func() bool {
			return create(f, fmt.Sprint("after-", n), 1).http == http.StatusAccepted
		})
	}
}

// maxInflightBytes is the default of --max-inflight-bytes.
const maxInflightBytes = 256 << 20

// inflight is the memory that a front has set aside for requests, in bytes.
func inflight(t *testing.T, f *frontProcess) float64 {
	t.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		t.Error(err)
	}
	for _, family := range families {
		if family.GetName() == "intake_front_inflight_bytes" {
			return family.Metric[0].GetGauge().GetValue()
		}
	}
	t.Error("the front does not tell what its requests take")
	return 0
}
