package main

import (
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What docker-compose.yml takes from .env is explained in .env.example, and what is
// explained there is taken: among it that a stack may go on with unsafe servers.
func TestCompose_Variables(t *testing.T) {
	t.Parallel()
	variables := func(file, pattern string) []string {
		t.Helper()
		content, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		found := make(map[string]bool)
		for _, match := range regexp.MustCompile(pattern).FindAllSubmatch(content, -1) {
			found[string(match[1])] = true
		}
		return slices.Sorted(maps.Keys(found))
	}
	taken := variables("docker-compose.yml", `\$\{([A-Z_]+)`)
	if diff := cmp.Diff(variables(".env.example", `(?m)^([A-Z_]+)=`), taken); diff != "" {
		t.Errorf(".env.example has (-), docker-compose.yml takes (+):\n%s", diff)
	}
	if !slices.Contains(taken, "INTAKE_ALLOW_UNSAFE") {
		t.Error("docker-compose.yml does not take INTAKE_ALLOW_UNSAFE")
	}
}

// Neither git nor the image's build takes what make and the README's commands leave
// in the checkout.
func TestIgnored(t *testing.T) {
	t.Parallel()
	left := []string{"bin", ".intake", ".env", "batches.ndjson", "report.html", "prove.html", "bench-table.json"}
	for _, file := range []string{".gitignore", ".dockerignore"} {
		content, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		patterns := strings.Fields(string(content))
		for _, name := range left {
			if !slices.ContainsFunc(patterns, func(pattern string) bool {
				matches, _ := path.Match(strings.Trim(pattern, "/"), name)
				return matches
			}) {
				t.Errorf("%s does not have %s", file, name)
			}
		}
	}
}
