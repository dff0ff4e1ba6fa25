//go:build planted

package main

import (
	"os"
	"regexp"
	"slices"
	"testing"
	"time"

	"intake/internal/local/localtest"
)

// Runs against programs with a bug find it, as what it is, with one of a few seeds;
// runs of the same length against the program without one find nothing. Every other
// seed has a standby, and all of a bug that shows with one only. This takes a quarter of an hour.
func TestPlanted(t *testing.T) {
	const seeds = 5
	run := func(t *testing.T, program string, seed uint64, standby bool) *Report {
		dir := localtest.Dir(t)
		report, err := Run(t.Context(), Options{
			Program: program, Dir: dir, Duration: 40 * time.Second, Seed: seed, Standby: standby || seed%2 == 0,
			Failpoints: true, Out: t.Output(),
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = os.RemoveAll(dir)
		return report
	}
	t.Run("no bug", func(t *testing.T) {
		program := plant{}.build(t)
		for seed := uint64(1); seed <= 2; seed++ {
			for _, violation := range run(t, program, seed, false).Violations {
				t.Error(violation)
			}
		}
	})
	for _, p := range plants {
		t.Run(p.name, func(t *testing.T) {
			program, shows := p.build(t), regexp.MustCompile(p.shows)
			for seed := uint64(1); seed <= seeds; seed++ {
				violations := run(t, program, seed, p.standby).Violations
				if at := slices.IndexFunc(violations, shows.MatchString); at >= 0 {
					t.Logf("found with seed %d, %d violations, such as: %.300s", seed, len(violations), violations[at])
					return
				}
				for _, violation := range violations[:min(3, len(violations))] {
					t.Logf("seed %d: something else: %.300s", seed, violation)
				}
			}
			t.Error("not found")
		})
	}
}
