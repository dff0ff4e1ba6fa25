package front_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"intake"
	"intake/worker/queue"
)

// What can't be promised of a repeat is not answered.
func TestCreateOnce_LedgerAway(t *testing.T) {
	t.Parallel()
	away := errors.New("secret-host is away")
	var first []byte // an answer, as it is kept
	takenOver := func(uuid.UUID) (intake.Reservation, error) {
		return intake.Reservation{State: intake.ReservationTakenOver, Batch: uuid.Must(queue.NewBatch())}, nil
	}
	for _, test := range []struct {
		name      string
		set       func(f *testFront)
		prefer    string
		status    int // 0: broken off
		replayed  bool
		released  int64
		submitted int
	}{
		{"reserve", func(f *testFront) {
			f.store.reserve = func(uuid.UUID) (intake.Reservation, error) { return intake.Reservation{}, away }
		}, "", 503, false, 0, 0},
		{"queue away", func(f *testFront) {
			f.queue.submit = func(context.Context, *intake.Batch) (queue.Ticket, error) {
				return nil,
					queue.ErrUnavailable
			}
		}, "", 503, false, 1, 1},
		{"refused, and taken over", func(f *testFront) {
			f.queue.submit = func(context.Context, *intake.Batch) (queue.Ticket, error) {
				return nil,
					queue.ErrUnavailable
			}
			f.store.release = intake.ErrTakenOver
		}, "", 409, false, 1, 1},
		{"taken over, and refused", func(f *testFront) {
			f.store.reserve = takenOver
			f.queue.submit = func(context.Context, *intake.Batch) (queue.Ticket, error) {
				return nil,
					queue.ErrUnavailable
			}
		}, "", 409, false, 0, 1},
		{"taken over, and too large", func(f *testFront) {
			f.store.reserve = takenOver
			f.queue.submit = func(context.Context, *intake.Batch) (queue.Ticket, error) {
				return nil,
					queue.ErrTooLarge
			}
		}, "", 413, false, 0, 1},
		{"it may be queued", func(f *testFront) {
			f.queue.submit = func(context.Context, *intake.Batch) (queue.Ticket, error) {
				return nil,
					queue.ErrUncertain
			}
		}, "", 0, false, 0, 1},
		{"answer not kept", func(f *testFront) {
			f.store.keep = func([]byte) ([]byte, error) { return nil, away }
		}, "", 0, false, 0, 1},
		{"a repeat has taken over", func(f *testFront) {
			f.store.keep = func([]byte) ([]byte, error) { return nil, intake.ErrTakenOver }
		}, "", 409, false, 0, 1},
		{"pending", func(f *testFront) {
			f.queue.submit = func(context.Context, *intake.Batch) (queue.Ticket, error) { return untilDone(nil), nil }
			f.store.keep = func(answer []byte) ([]byte, error) { first = answer; return answer, nil }
		}, "respond-async", 202, false, 0, 1},
		{"another front has answered meanwhile", func(f *testFront) {
			f.store.keep = func([]byte) ([]byte, error) { return first, nil }
		}, "return=minimal", 202, true, 0, 1},
		{"running", func(f *testFront) {
			f.store.reserve = func(uuid.UUID) (intake.Reservation, error) {
				return intake.Reservation{State: intake.ReservationRunning}, nil
			}
		}, "", 409, false, 0, 0},
		{"another body", func(f *testFront) {
			f.store.reserve = func(uuid.UUID) (intake.Reservation, error) {
				return intake.Reservation{State: intake.ReservationOtherBody}, nil
			}
		}, "", 422, false, 0, 0},
		{"damaged", func(f *testFront) {
			f.store.reserve = func(batch uuid.UUID) (intake.Reservation, error) {
				return intake.Reservation{State: intake.ReservationAnswered, Batch: batch, Answer: []byte("damaged")},
					nil
			}
		}, "", 500, false, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := startFront(t)
			test.set(f)
			a, err := f.try(f.create(t, f.token(t), strings.NewReader(items("a")), "Idempotency-Key", "k", "Prefer",
				test.prefer))
			switch {
			case test.status == 0 && err == nil:
				t.Errorf("answered %d %s", a.status, a.Bytes())
			case test.status == 0:
			case err != nil:
				t.Fatal(err)
			case test.status >= 400:
				a.checkProblem(t, test.status, "")
			case a.status != test.status || (a.header.Get("Idempotent-Replayed") == "true") != test.replayed ||
				a.header.Get("Preference-Applied") != "respond-async":
				t.Errorf("answered %d %v", a.status, a.header)
			}
			if err == nil && strings.Contains(a.String(), "secret-host") {
				t.Errorf("answered %s", a.Bytes())
			}
			if f.store.released.Load() != test.released || f.queue.submitted() != test.submitted {
				t.Errorf("%d keys are given up, %d batches submitted", f.store.released.Load(), f.queue.submitted())
			}
		})
	}
}

// A reservation is renewed for as long as its request is worked on.
func TestCreateOnce_Renew(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	f.queue.submit = func(_ context.Context, batch *intake.Batch) (queue.Ticket, error) {
		return &fakeTicket{wait: func(ctx context.Context) bool {
			for f.store.renewed.Load() < 2 && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			saveAll(batch)
			return ctx.Err() == nil
		}}, nil
	}
	if a := f.do(t, f.create(t, f.token(t), strings.NewReader(items("a")), "Idempotency-Key", "k", "Prefer",
		"wait=30")); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.Bytes())
	}
}
