package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const delayedDir = "BENCH_TEST_DELAYED_DIR"

// TestSyncDelay runs itself in a process of its own, as the filter cannot be removed.
func TestSyncDelay(t *testing.T) {
	if dir := os.Getenv(delayedDir); dir != "" {
		testSyncDelay(t, dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestSyncDelay$", "-test.v")
	cmd.Env = append(os.Environ(), delayedDir+"="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%s", err, out)
	}
}

func testSyncDelay(t *testing.T, dir string) {
	d, err := newSyncDelay()
	if err != nil {
		t.Fatal(err)
	}
	const delay = 50 * time.Millisecond
	d.set(delay)
	file, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	began := time.Now()
	if err := file.Sync(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < delay {
		t.Errorf("a sync of this process took %s, want at least %s", took, delay)
	}
	began = time.Now()
	if out, err := exec.Command("sync", file.Name()).CombinedOutput(); err != nil { // fsync of a file
		t.Fatalf("%s\n%s", err, out)
	}
	if took := time.Since(began); took < delay {
		t.Errorf("a sync of a child took %s, want at least %s", took, delay)
	}
}
