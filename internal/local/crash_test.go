package local_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"intake/internal/local"
	"intake/internal/local/localtest"
)

// A process that is killed while it makes the data directory leaves a folder in
// which the next start works.
func TestPostgres_KilledAtItsFirstStart(t *testing.T) {
	t.Parallel()
	dir := localtest.Dir(t)
	parent := exec.CommandContext(t.Context(), os.Args[0])
	parent.Env = append(os.Environ(), parentEnv+"="+dir)
	if _, err := parent.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "the data directory is half made", func() bool {
		found, _ := filepath.Glob(filepath.Join(dir, "postgres", "cluster.new-*", "data", "PG_VERSION"))
		return len(found) > 0
	})
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	postgres := startPostgres(t, filepath.Join(dir, "postgres"))
	if left, _ := filepath.Glob(filepath.Join(dir, "postgres", "cluster.new-*")); len(left) > 0 {
		t.Errorf("%s is left", left)
	}
	if got := query(t, postgres, "select count(*)::text from pg_database"); got != "3" {
		t.Errorf("%s databases", got)
	}
}

// A NATS that can't open its store says so, and the process lives on.
func TestNATS_DoesNotStart(t *testing.T) {
	t.Parallel()
	dir := localtest.Dir(t)
	if err := os.WriteFile(filepath.Join(dir, "jetstream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	server, err := local.StartNATS(t.Context(), local.NATSOptions{Dir: dir})
	if err == nil {
		_ = server.Stop(t.Context())
		t.Fatal("it started")
	}
	if !strings.Contains(err.Error(), "JetStream") {
		t.Error(err)
	}
}
