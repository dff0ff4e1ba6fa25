package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"intake"
	"intake/internal/local"
	"intake/internal/local/localtest"
)

// The disk of NATS gets full: batches are refused, what was answered 202 is saved, and
// the front says what is wrong and what to do. That there is room again doesn't help: NATS
// stores nothing before it is restarted. Then all is as before.
func TestFullDisk(t *testing.T) {
	for name, test := range map[string]struct {
		servers      int
		monitored    bool
		says         string
		saveWhenFull bool // or only after the restart
	}{
		"with monitoring":    {1, true, "no space left on device", true},
		"without monitoring": {1, false, "does not confirm", false},
		"cluster":            {3, true, "JetStream not enabled", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := localtest.SmallDisk(t, 48<<20)
			servers := startNATSOn(t, disk, test.servers)
			flags := serverFlags{QueueReplicas: test.servers}
			for _, nats := range servers {
				flags.NATSURL += "," + nats.URL()
				if test.monitored {
					flags.NATSMonitorURL = append(flags.NATSMonitorURL, monitoringOf(t, nats))
				}
			}
			flags.NATSURL = flags.NATSURL[1:]
			var logged atomic.Int64
			s := startStack(t, stackOptions{flags: flags, logged: func(entry zapcore.Entry) error {
				if entry.Message == "batches are refused" {
					logged.Add(1)
				}
				return nil
			}})
			f := s.fronts[0]
			client := s.client(t.Context(), f, "acme", s.secret)
			items := 0
			send := func(prefer string) answer {
				t.Helper()
				texts := make([]string, 20)
				for i := range texts {
					texts[i] = itemOf(fmt.Sprint(items+i), 1)
				}
				a, err := post(t.Context(), client, f, []byte("["+strings.Join(texts, ",")+"]"), prefer)
				if err != nil {
					t.Fatal(err)
				}
				if a.http == http.StatusOK || a.http == http.StatusAccepted {
					items += len(texts)
				}
				return a
			}
			refused := func(when string) {
				t.Helper()
				if a := send("respond-async"); a.http != http.StatusServiceUnavailable || a.retry == "" {
					t.Errorf("%s: a batch is answered %d %s", when, a.http, a.refused.Detail)
				}
				localtest.Eventually(t, when+": /readyz says what is wrong, and what to do", func() bool {
					status, text := readyz(t, f)
					return status == http.StatusServiceUnavailable &&
						strings.Contains(text, test.says) && strings.Contains(text, "restart nats-server")
				})
				const invalid = `[{"partner_client_id":"invalid"}]`
				a, err := post(t.Context(), client, f, []byte(invalid), "")
				if err != nil || a.http != http.StatusOK || a.Result[0].Status.Code != intake.CodeInvalid {
					t.Errorf("%s: a batch that needs no saving is answered %d %s (%v)", when, a.http, a.refused.Detail,
						err)
				}
			}
			localtest.Eventually(t, "the servers have elected leaders, and batches are saved",
				func() bool { return send("wait=30").http == http.StatusOK })
			unlock := s.lockClients(t)
			disk.Fill(t)
			var pending []string
			for a := send("respond-async"); a.http == http.StatusAccepted; a = send("respond-async") {
				pending = append(pending, a.ID)
			}
			allSaved := func() {
				t.Helper()
				for _, id := range pending {
					for i, result := range final(t, client, f, id).Result {
						if result.Status.Code != intake.CodeSaved {
							t.Fatalf("batch %s: item %d is %s", id, i, result.Status.Code)
						}
					}
				}
			}
			refused("the disk is full")
			if test.saveWhenFull {
				unlock()
				allSaved()
			}
			disk.MakeRoom(t)
			refused("there is room again")
			if n := logged.Load(); n != 1 {
				t.Errorf("logged %d times that batches are refused", n)
			}
			restart(t, servers)
			localtest.Eventually(t, "the front is ready", func() bool {
				status, _ := readyz(t, f)
				return status == http.StatusOK
			})
			if !test.saveWhenFull {
				unlock()
			}
			allSaved()
			if a := send("wait=30"); a.http != http.StatusOK {
				t.Errorf("after the restart a batch is answered %d %s", a.http, a.refused.Detail)
			}
			if n := s.count(t, "select count(*) from partner_clients"); n != items {
				t.Errorf("%d records of %d items", n, items)
			}
		})
	}
}

// startNATSOn starts a NATS, or a cluster, that has all its data on a disk.
func startNATSOn(t *testing.T, disk *localtest.Disk, servers int) []*local.NATS {
	t.Helper()
	opts := make([]local.NATSOptions, servers)
	for i := range opts {
		opts[i] = local.NATSOptions{Dir: filepath.Join(disk.Dir, fmt.Sprint(i)), MaxStore: 4 << 30}
	}
	if servers == 1 {
		return []*local.NATS{localtest.NATSWith(t, opts[0])}
	}
	return localtest.NATSClusterWith(t, opts...)
}

func restart(t *testing.T, servers []*local.NATS) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, nats := range servers {
		if err := nats.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		if err := nats.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// monitoringOf returns the URL of a proxy to the monitoring of a NATS, which has
// another port each time it starts.
func monitoringOf(t *testing.T, nats *local.NATS) string {
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		monitor, err := url.Parse(nats.MonitorURL())
		if err != nil {
			t.Error(err)
			return
		}
		r.SetURL(monitor)
	}})
	t.Cleanup(proxy.Close)
	return proxy.URL
}

// readyz asks a front on its admin listener whether it is ready.
func readyz(t *testing.T, f *frontProcess) (status int, text string) {
	t.Helper()
	response, err := http.Get("http://" + f.admin.Addr().String() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}
