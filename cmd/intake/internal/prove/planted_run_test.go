//go:build planted

package prove

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"intake/deploy/local/localtest"
)

// Runs against programs with a bug find it, with one of a few seeds. This takes a
// quarter of an hour.
func TestPlanted(t *testing.T) {
	const seeds = 5
	root := moduleRoot(t)
	for _, p := range plants {
		t.Run(p.name, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "intake")
			build := exec.CommandContext(t.Context(), "go", "build", "-overlay", p.overlay(t, root), "-o", program, "./cmd/intake")
			build.Dir = root
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for seed := range uint64(seeds) {
				dir := localtest.Dir(t)
				report, err := Run(t.Context(), Options{Program: program, Dir: dir, Duration: 40 * time.Second, Seed: seed + 1, Out: t.Output()})
				if err != nil {
					t.Fatal(err)
				}
				if report.Holds() {
					continue
				}
				t.Logf("found with seed %d, %d violations:", seed+1, len(report.Violations))
				for _, violation := range report.Violations[:min(3, len(report.Violations))] {
					t.Logf("%.300s", violation)
				}
				_ = os.RemoveAll(dir)
				return
			}
			t.Error("not found")
		})
	}
}
