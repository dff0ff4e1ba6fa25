package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/zap"

	"intake/internal/local/localtest"
)

// A front and a worker that are told to stop while a server has fallen silent, with
// its connections open, are gone in time all the same. Who waits is told something
// true first.
func TestStop_SilentServer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		flag func(*serverFlags) *string
		busy func(f *frontProcess, w *workerProcess, answered bool) bool // with the request
		want int
		// timeout is for what has to pass first: most of it for those who wait for a
		// commit, the 5 s that a publish is given.
		timeout time.Duration
	}{
		"postgres": {
			func(f *serverFlags) *string { return &f.PostgresURL },
			func(_ *frontProcess, w *workerProcess, _ bool) bool {
				return gauge(t, w.metrics, "intake_worker_held_messages") > 0
			},
			http.StatusAccepted, 6 * time.Second,
		},
		"nats": {
			func(f *serverFlags) *string { return &f.NATSURL },
			func(f *frontProcess, _ *workerProcess, _ bool) bool {
				return gauge(t, f.metrics, "intake_front_inflight_bytes") > 0
			},
			http.StatusServiceUnavailable, 8 * time.Second,
		},
		"redis": {
			func(f *serverFlags) *string { return &f.RedisURL },
			func(_ *frontProcess, _ *workerProcess, answered bool) bool { return answered },
			http.StatusOK, 6 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			s := startStack(t, stackOptions{none: true})
			flags := s.flags
			silence := throughProxy(t, test.flag(&flags))
			f, err := newFrontProcess(ctx, frontCommand{
				serverFlags: flags, Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", PublicURL: "http://intake.test",
				ShutdownTimeout: test.timeout,
			}, zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			w, err := newWorkerProcess(ctx, workerCommand{serverFlags: flags, AdminListen: "127.0.0.1:0",
				ShutdownTimeout: test.timeout}, zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			ends := make(map[string]chan error)
			running, stop := context.WithCancel(ctx)
			defer stop()
			for name, run := range map[string]func(context.Context) error{"front": f.Run, "worker": w.Run} {
				ended := make(chan error, 1)
				ends[name] = ended
				go func() { ended <- run(running) }()
			}
			if err := waitReady(ctx, f.health, w.health); err != nil {
				t.Fatal(err)
			}
			client := s.client(ctx, f, "acme", s.secret)
			create := func(id string) (answer, error) {
				return post(ctx, client, f, []byte("["+itemOf(id, 1)+"]"), "wait=30")
			}
			if a, err := create("before"); err != nil || a.http != http.StatusOK {
				t.Fatalf("answered %d (%v)", a.http, err)
			}
			silence()
			type said struct {
				answer
				err error
			}
			answered := make(chan said, 1)
			go func() {
				a, err := create("during")
				answered <- said{a, err}
			}()
			localtest.Eventually(t, "the request is in", func() bool { return test.busy(f, w, len(answered) > 0) })
			began := time.Now()
			stop()
			for name, ended := range ends {
				select {
				case err := <-ended:
					t.Logf("the %s was gone after %s", name, time.Since(began))
					if err != nil {
						t.Errorf("the %s ended with %v", name, err)
					}
				case <-time.After(test.timeout + 10*time.Second - time.Since(began)):
					t.Fatalf("the %s is not gone", name)
				}
			}
			if a := <-answered; a.err != nil || a.http != test.want {
				t.Errorf("answered %d %s (%v)", a.http, a.refused.Detail, a.err)
			}
		})
	}
}

// The first signal has a front finish what is in, the second one ends it at once.
func TestStop_SecondSignal(t *testing.T) {
	t.Parallel()
	listen, admin := freeAddress(t), freeAddress(t)
	cmd := command(t, "front", "--listen="+listen, "--admin-listen="+admin, "--shutdown-timeout=1m",
		"--postgres-url=postgres://127.0.0.1:1/none", "--nats-url=nats://127.0.0.1:1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	defer func() {
		_ = cmd.Process.Kill()
		<-ended
	}()
	says := func(path, want string) {
		t.Helper()
		localtest.Eventually(t, path+" says "+want, func() bool {
			response, err := http.Get("http://" + admin + path)
			if err != nil {
				return false
			}
			defer response.Body.Close()
			text, err := io.ReadAll(response.Body)
			return err == nil && strings.Contains(string(text), want)
		})
	}
	says("/livez", "ok")
	conn, err := net.Dial("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A request whose body doesn't come is in for as long as a slow client is given.
	if _, err := io.WriteString(conn,
		"POST /livez HTTP/1.1\r\nHost: intake.test\r\nContent-Length: 2\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	says("/metrics", `intake_front_requests_total{status="405"} 1`)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	says("/readyz", "shutting down")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() ||
		status.Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %s", cmd.ProcessState)
	}
}

// throughProxy puts a proxy before a server, and gives a function after which
// nothing comes through while all connections stay open.
func throughProxy(t *testing.T, serverURL *string) (silence func()) {
	t.Helper()
	proxy := proxyTo(t, serverURL)
	return func() {
		for _, stream := range []string{"upstream", "downstream"} {
			toxic := `{"type": "timeout", "stream": "` + stream + `", "attributes": {"timeout": 0}}`
			if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// proxyTo puts a proxy before a server.
func proxyTo(t *testing.T, serverURL *string) *toxiproxy.Proxy {
	t.Helper()
	parsed, err := url.Parse(*serverURL)
	if err != nil {
		t.Fatal(err)
	}
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	proxy := toxiproxy.NewProxy(server, t.Name(), "127.0.0.1:0", parsed.Host)
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Stop)
	parsed.Host = proxy.Listen
	*serverURL = parsed.String()
	return proxy
}

func gauge(t *testing.T, gatherer prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := gatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}
