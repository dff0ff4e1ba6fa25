package local

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Without a Postgres, one line says what to do.
func TestPostgresPrograms_Missing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := postgresPrograms(filepath.Join(t.TempDir(), "*", "bin"))
	if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(),
		"apt-get install postgresql") {
		t.Errorf("%v", err)
	}
}

// The highest version, by its number, whose programs are all there; PATH last.
func TestPostgresPrograms_Which(t *testing.T) {
	root := t.TempDir()
	for _, program := range []string{"9/bin/initdb", "9/bin/postgres", "16/bin/initdb", "16/bin/postgres",
		"17/bin/initdb", "path/initdb", "path/postgres"} {
		file := filepath.Join(root, program)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", filepath.Join(root, "path"))
	for _, test := range []struct{ pattern, want string }{
		{filepath.Join(root, "*", "bin"), filepath.Join(root, "16", "bin")},
		{filepath.Join(root, "none", "*"), filepath.Join(root, "path")},
	} {
		if found, err := postgresPrograms(test.pattern); err != nil || found != test.want {
			t.Errorf("%s: %s %v, want %s", test.pattern, found, err, test.want)
		}
	}
}
