package worker

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"intake"
	"intake/internal/local/localtest"
	"intake/internal/safety"
)

// A front or worker that was not told how many replicas there are leaves them; one
// that wants more than there are raises them.
func TestReplicas_NeverLowered(t *testing.T) {
	t.Parallel()
	nc := connect(t, localtest.NATSCluster(t, 3)[0].URL())
	for _, step := range []struct{ wanted, have int }{{1, 1}, {3, 3}, {1, 3}} {
		opts := StreamOptions{Replicas: step.wanted, MaxBytes: 64 << 20}
		// A worker that was updated changes other settings of the stream too.
		opts.MaxBytes += int64(step.wanted)
		core, logged := observer.New(zap.InfoLevel)
		w, err := New(nc, Options{Store: noStore{}, Stream: opts, Logger: zap.New(core)})
		if err != nil {
			t.Fatal(err)
		}
		stop := start(t, w.Run)
		eventually(t, "the worker is ready", func() bool { return w.Ready(t.Context()) == nil })
		for _, name := range []string{StreamName, DeadStreamName} {
			eventually(t, name+" is as it should be", func() bool {
				config := configOf(t, nc, name)
				return config.Replicas == step.have && (name != StreamName || config.MaxBytes == opts.MaxBytes)
			})
		}
		stop()
		keeps := logged.FilterMessage("the queue keeps its replicas, which are more than --queue-replicas").Len()
		if keeps != 0 != (step.have > step.wanted) {
			t.Errorf("wanted %d and has %d replicas: said %d times that it keeps them", step.wanted, step.have, keeps)
		}
	}
}

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
	q, err := NewQueue(nc, QueueOptions{Ledger: silentLedger{}, Stream: StreamOptions{Replicas: 3}})
	if err != nil {
		t.Fatal(err)
	}
	start(t, q.Run)
	eventually(t, "the front is ready", func() bool { return q.Ready(t.Context()) == nil })
	if config := configOf(t, nc, StreamName); config.Replicas != 3 || config.MaxBytes != 64<<20 {
		t.Errorf("%d replicas, %d bytes", config.Replicas, config.MaxBytes)
	}
}

// Where there are not servers enough, fronts and workers refuse, whether there is
// a stream or not, and go on with fewer replicas if they may.
func TestReplicas_TooFewServers(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]bool{"no stream": false, "a stream": true} {
		for part, run := range map[string]func(*testing.T, *nats.Conn, Check) (func(context.Context) error, func(context.Context) error){
			"front": func(t *testing.T, nc *nats.Conn, check Check) (run, ready func(context.Context) error) {
				q, err := NewQueue(nc, QueueOptions{Ledger: silentLedger{}, Stream: StreamOptions{Replicas: 3}, Check: check})
				if err != nil {
					t.Fatal(err)
				}
				return q.Run, q.Ready
			},
			"worker": func(t *testing.T, nc *nats.Conn, check Check) (run, ready func(context.Context) error) {
				w, err := New(nc, Options{Store: noStore{}, Stream: StreamOptions{Replicas: 3}, Check: check})
				if err != nil {
					t.Fatal(err)
				}
				return w.Run, w.Ready
			},
		} {
			t.Run(part+", "+name, func(t *testing.T) {
				t.Parallel()
				nc := connect(t, localtest.NATS(t))
				js, err := jetstream.New(nc)
				if err != nil {
					t.Fatal(err)
				}
				if before {
					if err := createLog(t.Context(), js, StreamOptions{MaxBytes: 64 << 20}); err != nil {
						t.Fatal(err)
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				refuse, _ := run(t, nc, Check{})
				err = refuse(ctx)
				var breach *safety.Breach
				if !errors.As(err, &breach) || !strings.Contains(err.Error(), "replicas of stream INTAKE is 1, not 3") || !strings.Contains(err.Error(), "--queue-replicas=1") {
					t.Fatalf("it ended with %v", err)
				}
				goOn, ready := run(t, nc, Check{AllowUnsafe: true})
				start(t, goOn)
				eventually(t, "it goes on", func() bool { return ready(t.Context()) == nil })
			})
		}
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

// noStore saves nothing.
type noStore struct{}

func (noStore) Save(context.Context, []*intake.Chunk) (intake.Saved, error) {
	return intake.Saved{}, errors.New("away")
}

func (noStore) Ping(context.Context) error { return nil }

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
