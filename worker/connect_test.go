package worker

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"intake/internal/local/localtest"
	"intake/worker/queue"
)

// While NATS can't be reached, the log says so once, with the address and the cause,
// however often the connection is tried; and so does Ready.
func TestConnect_Unreachable(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var tries atomic.Int32
	go func() { // accepts connections, and hangs up
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			tries.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() { listener.Close() })
	core, logs := observer.New(zapcore.WarnLevel)
	logger := zap.New(core)
	address := "nats://" + listener.Addr().String()
	nc, err := queue.Connect(address, t.Name(), logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	q, err := queue.New(nc, queue.Options{Ledger: silentLedger{}, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	w, err := New(nc, Options{Store: stuckStore{}, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	start(t, q.Run)
	start(t, w.Run)
	localtest.Eventually(t, "NATS is tried a few times", func() bool { return tries.Load() >= 8 })
	all := logs.All()
	if len(all) != 1 || !strings.Contains(all[0].Message, "cannot reach NATS") {
		t.Fatalf("the log has %d warnings, want one: %v", len(all), all)
	}
	fields := all[0].ContextMap()
	if servers, _ := fields["servers"].(string); servers != address {
		t.Errorf("the log names %q, want %s", servers, address)
	}
	if fields["error"] == nil {
		t.Errorf("the log names no cause: %v", fields)
	}
	for name, err := range map[string]error{"queue": q.Ready(t.Context()), "worker": w.Ready(t.Context())} {
		if err == nil || !strings.Contains(err.Error(), "no connection to NATS at "+address) {
			t.Errorf("%s: Ready returns %v", name, err)
		}
	}
}

// A connection that was lost is not one that has never been made.
func TestQueue_ReadyAfterLoss(t *testing.T) {
	t.Parallel()
	nats := localtest.OwnNATS(t)
	core, logs := observer.New(zapcore.WarnLevel)
	nc, err := queue.Connect(nats.URL(), t.Name(), zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	q, err := queue.New(nc, queue.Options{Ledger: silentLedger{}})
	if err != nil {
		t.Fatal(err)
	}
	start(t, q.Run)
	localtest.Eventually(t, "the queue is ready", func() bool { return q.Ready(t.Context()) == nil })
	if err := nats.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "the log says why NATS can't be reached", func() bool {
		return logs.FilterMessageSnippet("cannot reach NATS").Len() == 1
	})
	const want = "no connection to NATS at nats://127.0.0.1:"
	if err := q.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Ready returns %v, want %q", err, want)
	}
}
