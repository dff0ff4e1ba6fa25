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
	"intake/worker/queue"
)

// A worker that wants fewer replicas than there are leaves them; one that wants more raises them.
func TestReplicas_NeverLowered(t *testing.T) {
	t.Parallel()
	nc := connect(t, localtest.NATSCluster(t, 3)[0].URL())
	for _, step := range []struct{ wanted, have int }{{1, 1}, {3, 3}, {1, 3}} {
		opts := queue.StreamOptions{Replicas: step.wanted, MaxBytes: 64 << 20}
		// A worker that was updated changes other settings of the stream too.
		opts.MaxBytes += int64(step.wanted)
		core, logged := observer.New(zap.InfoLevel)
		w, err := New(nc, Options{Store: noStore{}, Stream: opts, Logger: zap.New(core)})
		if err != nil {
			t.Fatal(err)
		}
		stop := start(t, w.Run)
		localtest.Eventually(t, "the worker is ready", func() bool { return w.Ready(t.Context()) == nil })
		for _, name := range []string{queue.StreamName, queue.DeadStreamName} {
			localtest.Eventually(t, name+" is as it should be", func() bool {
				config := configOf(t, nc, name)
				return config.Replicas == step.have && (name != queue.StreamName || config.MaxBytes == opts.MaxBytes)
			})
		}
		stop()
		keeps := logged.FilterMessage("the queue has more replicas than --queue-replicas, and keeps them").Len()
		if keeps != 0 != (step.have > step.wanted) {
			t.Errorf("wanted %d and has %d replicas: said %d times that it keeps them", step.wanted, step.have, keeps)
		}
	}
}

// Where there are not servers enough, a worker refuses, whether there is a stream or not, and goes
// on with fewer replicas if it may.
func TestReplicas_TooFewServers(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]bool{"no stream": false, "a stream": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nc := connect(t, localtest.NATS(t))
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			if before {
				if _, err := queue.SetUp(t.Context(), js, queue.StreamOptions{MaxBytes: 64 << 20},
					time.Minute); err != nil {
					t.Fatal(err)
				}
			}
			worker := func(check queue.Check) *Worker {
				t.Helper()
				w, err := New(nc, Options{Store: noStore{}, Stream: queue.StreamOptions{Replicas: 3}, Check: check})
				if err != nil {
					t.Fatal(err)
				}
				return w
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			err = worker(queue.Check{}).Run(ctx)
			var breach *safety.Breach
			if !errors.As(err, &breach) {
				t.Fatalf("it ended with %v, want a breach", err)
			}
			for _, part := range []string{"replicas of stream INTAKE is 1, not 3", "--queue-replicas=1"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("it ended with %v, want %q", err, part)
				}
			}
			goesOn := worker(queue.Check{AllowUnsafe: true})
			start(t, goesOn.Run)
			localtest.Eventually(t, "the worker goes on", func() bool { return goesOn.Ready(t.Context()) == nil })
		})
	}
}

// noStore saves nothing.
type noStore struct{}

func (noStore) Save(context.Context, []*intake.Chunk) (intake.Saved, error) {
	return intake.Saved{}, errors.New("down")
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
