package sleep_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"intake/internal/sleep"
)

// For waits for as long as it should, and no longer than its context lasts.
func TestFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if waited := sleep.For(t.Context(), time.Minute); !waited || time.Since(began) != time.Minute {
			t.Errorf("For returned %v after %s, want true after a minute", waited, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if waited := sleep.For(ctx, time.Minute); waited || time.Since(began) != time.Second {
			t.Errorf("For returned %v after %s, want false after the context's second", waited, time.Since(began))
		}
	})
}
