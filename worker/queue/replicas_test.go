package queue

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"intake/internal/local/localtest"
	"intake/internal/safety"
)

// A front raises the replicas of the stream it finds, before it is ready.
func TestReplicas_RaisedByAFront(t *testing.T) {
	t.Parallel()
	nc := connect(t, localtest.NATSCluster(t, 3)[0].URL())
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := createLog(t.Context(), js, StreamOptions{MaxBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	q, err := New(nc, Options{Ledger: new(fakeLedger), Stream: StreamOptions{Replicas: 3}})
	if err != nil {
		t.Fatal(err)
	}
	start(t, q.Run)
	localtest.Eventually(t, "the front is ready", func() bool { return q.Ready(t.Context()) == nil })
	if config := configOf(t, nc, StreamName); config.Replicas != 3 || config.MaxBytes != 64<<20 {
		t.Errorf("%d replicas, %d bytes", config.Replicas, config.MaxBytes)
	}
}

// A cluster that is too small can't raise the replicas of a stream either.
func TestReplicas_TooSmallACluster(t *testing.T) {
	t.Parallel()
	nc := connect(t, localtest.NATSCluster(t, 2)[0].URL())
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := createLog(t.Context(), js, StreamOptions{MaxBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	err = Check{}.check(t.Context(), nc, StreamOptions{Replicas: 3}, zap.NewNop())
	var breach *safety.Breach
	if !errors.As(err, &breach) || !strings.Contains(err.Error(), "replicas of stream INTAKE is 1, not 3") {
		t.Errorf("%v", err)
	}
}

// Where there are not servers enough, a front refuses, whether there is a stream or not, and goes
// on with fewer replicas if it may.
func TestReplicas_TooFewServers(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]bool{"no stream": false, "a stream": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if before {
				if err := createLog(t.Context(), r.js, StreamOptions{MaxBytes: 64 << 20}); err != nil {
					t.Fatal(err)
				}
			}
			front := func(check Check) *Queue {
				t.Helper()
				q, err := New(r.nc, Options{Ledger: new(fakeLedger), Stream: StreamOptions{Replicas: 3}, Check: check})
				if err != nil {
					t.Fatal(err)
				}
				return q
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			err := front(Check{}).Run(ctx)
			var breach *safety.Breach
			if !errors.As(err, &breach) {
				t.Fatalf("it ended with %v, want a breach", err)
			}
			for _, part := range []string{"replicas of stream INTAKE is 1, not 3", "--queue-replicas=1"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("it ended with %v, want %q", err, part)
				}
			}
			goesOn := front(Check{AllowUnsafe: true})
			start(t, goesOn.Run)
			localtest.Eventually(t, "the front goes on", func() bool { return goesOn.Ready(t.Context()) == nil })
		})
	}
}

func configOf(t *testing.T, nc *nats.Conn, name string) jetstream.StreamConfig {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo().Config
}
