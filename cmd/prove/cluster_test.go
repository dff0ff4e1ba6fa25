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
func TestRun_Cluster(t *testing.T) {
	program := plant{}.build(t)
	report, err := Run(t.Context(), Options{Program: program, Dir: localtest.Dir(t), Duration: 10 * time.Second, Seed: 4, Cluster: true, Out: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	for _, violation := range report.Violations {
		t.Error(violation)
	}
	if report.Records == 0 || report.Histories == 0 || report.Keys == 0 || report.Conserved == 0 || report.Restored == 0 || report.Overloaded == 0 || report.Waited == 0 {
		t.Errorf("something was not looked at: %+v", report)
	}
}
