// What runs here are other processes, in which the race detector has no part.

//go:build !race

package main

import (
	"testing"
	"time"

	"intake/internal/local/localtest"
)

// A short run with three servers of each kind, any one of which dies and returns:
// every promise is kept.
func TestLong_Run_Cluster(t *testing.T) {
	dir := localtest.Dir(t)
	program := plant{}.build(t)
	report, err := Run(t.Context(), Options{Program: program, Dir: dir, Duration: 10 * time.Second, Seed: 4,
		Cluster: true, Out: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	for _, violation := range report.Violations {
		t.Error(violation)
	}
	for what, n := range map[string]int{
		"records": report.Records, "histories": report.Histories, "repeated Idempotency-Keys": report.Keys,
		"counted items": report.Conserved, "items lost and saved again": report.Restored,
		"batches refused when overloaded": report.Overloaded, "pending batches": report.Waited,
	} {
		if n == 0 {
			t.Errorf("the run had no %s", what)
		}
	}
}
