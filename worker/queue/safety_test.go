package queue

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"intake"
	"intake/internal/local"
	"intake/internal/local/localtest"
	"intake/internal/safety"
)

// Some of several servers may be down, but not the connected one. A single server that does not sync
// is enough to refuse, and so are monitors of other servers only.
func TestCheck_Monitors(t *testing.T) {
	t.Parallel()
	nc := connect(t, localtest.NATS(t))
	monitor := func(answer string) string {
		m := newMonitor(t, nc)
		m.answer.Store(answer)
		return m.URL
	}
	syncs, lazy, another, away := monitor(syncs), monitor(lazy), monitor(another), "http://127.0.0.1:1"
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
		"of another server": {[]string{another}, false, true},
		"of only others":    {[]string{another, another}, false, true},
		"of another too":    {[]string{another, syncs}, true, false},
		"connected's away":  {[]string{another, away}, false, false},
	} {
		err := Check{MonitorURLs: test.monitors}.check(t.Context(), nc, StreamOptions{}, zap.NewNop())
		var breach *safety.Breach
		if (err == nil) != test.passed || errors.As(err, &breach) != test.refused {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A NATS that is too old is refused, as is one that doesn't say.
func TestCheck_Version(t *testing.T) {
	t.Parallel()
	for version, refused := range map[string]bool{
		"2.12.7": false, "2.12.10": false, "2.15.2": false, "3.0.0": false, "2.13.0-dev": false,
		"2.12.6": true, "2.9.25": true, "2.12.7-RC.1": true, "": true,
	} {
		err := checkVersion(version)
		var breach *safety.Breach
		says := "the version of NATS is " + version
		if errors.As(err, &breach) != refused || refused && !strings.Contains(err.Error(), says) {
			t.Errorf("version %q: %v", version, err)
		}
	}
}

// A NATS that takes only small messages is warned of, and used: batches are cut
// smaller, and an item that doesn't fit is refused.
func TestCheck_MaxPayload(t *testing.T) {
	t.Parallel()
	for name, payload := range map[string]int32{"as it should be": LargestMessage, "NATS's default": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			nc := connect(t, localtest.NATSWith(t, local.NATSOptions{MaxPayload: payload}).URL())
			core, logs := observer.New(zap.WarnLevel)
			q, err := New(nc, Options{Ledger: new(fakeLedger), Stream: StreamOptions{MaxBytes: 64 << 20},
				Logger: zap.New(core)})
			if err != nil {
				t.Fatal(err)
			}
			start(t, q.Run)
			localtest.Eventually(t, "the stream is there", func() bool { return q.Ready(t.Context()) == nil })
			wanted := 0
			if payload < LargestMessage {
				wanted = 1
			}
			if warned := logs.FilterMessageSnippet("max_payload: 8MB").Len(); warned != wanted {
				t.Errorf("warned %d times, want %d", warned, wanted)
			}
			submit := func(batch *intake.Batch) error {
				ticket, err := q.Submit(t.Context(), batch, Later)
				if err == nil {
					ticket.Release()
				}
				return err
			}
			several := newBatch("a", "b", "c", "d")
			for i := range several.Items {
				several.Items[i].Raw = incompressible(600 << 10)
			}
			if err := submit(several); err != nil {
				t.Errorf("2.4 MB in four items: %v", err)
			}
			one := newBatch("e")
			one.Items[0].Raw = incompressible(4 << 20) // which need not be kept
			if err := submit(one); err != nil {
				t.Errorf("4 MiB in one item: %v", err)
			}
			one = newBatch("f")
			one.Items[0].Client.OtherIdentifiers = incompressible(2 << 20)
			var want error
			if payload < LargestMessage {
				want = ErrTooLarge
			}
			if err := submit(one); !errors.Is(err, want) {
				t.Errorf("2 MiB of identifiers in one item: %v, want %v", err, want)
			}
		})
	}
}

func incompressible(size int) []byte {
	text := make([]byte, size)
	_, _ = rand.Read(text)
	return text
}

// An item fits with 4 MiB of text, whose identifiers are as many and as long as they
// may be, and of which nothing can be compressed.
func TestLargestMessage(t *testing.T) {
	t.Parallel()
	const identifiers = 50 * (64 + 50*256) * utf8.UTFMax
	batch := newBatch("a")
	item := &batch.Items[0]
	item.Raw = incompressible(4 << 20)
	item.Client.OtherIdentifiers = incompressible(identifiers + identifiers/10)
	item.Client.Claims = make([]intake.RevenueClaim, 1_000)
	if _, _, err := encode(batch, LargestMessage); err != nil {
		t.Error(err)
	}
}

// A monitor is the HTTP monitoring of a NATS, which says what a test wants.
type monitor struct {
	*httptest.Server
	answer atomic.Value
}

// What a monitor may say: that JetStream syncs, that it doesn't, that it is the one
// of another server, or nothing.
const (
	syncs   = `{"server_id":"ID","config":{"sync_always":true}}`
	lazy    = `{"server_id":"ID","config":{"sync_interval":120000000000}}`
	another = `{"server_id":"another","config":{"sync_always":true}}`
	silent  = ""
)

// newMonitor returns the monitor of the server that nc is connected to.
func newMonitor(t *testing.T, nc *nats.Conn) *monitor {
	m := new(monitor)
	m.answer.Store(syncs)
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(strings.ReplaceAll(m.answer.Load().(string), `"ID"`,
			strconv.Quote(nc.ConnectedServerId()))))
	}))
	t.Cleanup(m.Close)
	return m
}

// After a reconnect nothing is accepted until the server that is connected to then
// has been checked, and one that fails the check ends the queue.
func TestCheck_Reconnect(t *testing.T) {
	t.Parallel()
	server := localtest.OwnNATS(t)
	nc := connect(t, server.URL())
	monitor := newMonitor(t, nc)
	q, err := New(nc, Options{
		Ledger: new(fakeLedger), Check: Check{MonitorURLs: []string{monitor.URL}},
		Stream: StreamOptions{MaxBytes: 64 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	go func() { ended <- q.Run(ctx) }()
	restart := func(says string) {
		t.Helper()
		before := nc.Stats().Reconnects
		if err := server.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		monitor.answer.Store(says)
		if err := server.Start(ctx); err != nil {
			t.Fatal(err)
		}
		localtest.Eventually(t, "NATS is reconnected", func() bool {
			return nc.IsConnected() && nc.Stats().Reconnects > before
		})
	}
	accepts := func() bool {
		ticket, err := q.Submit(ctx, newBatch("a"), Waiting)
		if err == nil {
			ticket.Release()
		}
		return err == nil
	}
	localtest.Eventually(t, "the queue is ready", func() bool { return q.Ready(ctx) == nil })
	restart(silent)
	if _, err := q.Submit(ctx, newBatch("a"), Waiting); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a server that is not checked: %v", err)
	}
	if err := q.Ready(ctx); err == nil {
		t.Error("ready with a server that is not checked")
	}
	monitor.answer.Store(syncs)
	localtest.Eventually(t, "a batch is accepted when the server is checked", accepts)
	restart(lazy)
	if accepts() {
		t.Error("accepted by a server that doesn't sync")
	}
	var breach *safety.Breach
	if err := <-ended; !errors.As(err, &breach) {
		t.Errorf("the queue ended with %v", err)
	}
}

// reconnecting is a JetStream whose server is another one as soon as it has stored
// something.
type reconnecting struct {
	jetstream.JetStream
	after func()
}

func (r reconnecting) PublishMsg(
	ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt,
) (*jetstream.PubAck, error) {
	defer r.after()
	return r.JetStream.PublishMsg(ctx, msg, opts...)
}

// A batch that is stored while the connection changes is withdrawn and refused: a server that is
// not checked may be the one that has it.
func TestCheck_ReconnectWhilePublishing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q, err := New(r.nc, Options{Ledger: &r.ledger, PublishTimeout: time.Second,
		Stream: StreamOptions{MaxBytes: 64 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	q.js = reconnecting{q.js, func() { q.checked.Store(0) }}
	start(t, q.Run)
	localtest.Eventually(t, "the queue is ready", func() bool { return q.Ready(t.Context()) == nil })
	if _, err := q.Submit(t.Context(), newBatch("a"), Waiting); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("%v", err)
	}
	r.wantMessages(t, 1) // which a worker takes out: see TestQueue_AckLost there
	msg, err := r.stream(t).GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	chunks, _, err := ReadMessage(msg.Data)
	if err != nil {
		t.Fatal(err)
	}
	if want := []uuid.UUID{chunks[0].Batch}; !slices.Equal(r.ledger.withdrawn, want) {
		t.Errorf("withdrawn: %v, want %v", r.ledger.withdrawn, want)
	}
}

// The monitoring of a real server that is not the one in use.
func TestCheck_MonitorOfAnotherServer(t *testing.T) {
	t.Parallel()
	used, other := localtest.OwnNATS(t), localtest.OwnNATS(t)
	nc := connect(t, used.URL())
	err := Check{MonitorURLs: []string{used.MonitorURL()}}.check(t.Context(), nc, StreamOptions{}, zap.NewNop())
	if err != nil {
		t.Errorf("its own monitoring: %v", err)
	}
	err = Check{MonitorURLs: []string{other.MonitorURL()}}.check(t.Context(), nc, StreamOptions{}, zap.NewNop())
	var breach *safety.Breach
	want := "--nats-monitor-url " + other.MonitorURL() + " is not the connected server"
	if !errors.As(err, &breach) || !strings.Contains(err.Error(), want) {
		t.Errorf("another's monitoring: %v", err)
	}
}
