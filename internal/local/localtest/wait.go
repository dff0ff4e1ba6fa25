package localtest

import (
	"testing"
	"time"
)

// Eventually waits for a condition that no event announces, such as the state of
// another process. It checks the condition every 10 ms, and fails the test after
// 30 s, naming what it waited for.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	const (
		timeout = 30 * time.Second
		every   = 10 * time.Millisecond
	)
	for deadline := time.Now().Add(timeout); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain: %s", timeout, what)
		}
		<-time.After(every)
	}
}
