//go:build clients

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// amounts are such that a float32 changes the first, and a float64 the two after it.
var amounts = []string{"1234567.89", "123456789012345.6789", "-999999999999999.9999", "0.0001", "0"}

// Clients that are generated from the document send amounts and read them again to
// the last digit, and can tell why they are refused.
func TestClients(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	document, err := filepath.Abs("internal/reference/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for language, programs := range map[string]map[string][]string{
		"go":         {"oapi-codegen": {"bin/oapi-codegen"}, "ogen": {"bin/ogen"}},
		"typescript": {"openapi-fetch": {"node", "bin/openapi-fetch.js"}, "hey-api": {"node", "bin/hey-api.js"}},
	} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS("testdata/clients/"+language)); err != nil {
				t.Fatal(err)
			}
			outputIn(t, dir, nil, "./build", document)
			for name, program := range programs {
				environment := []string{"INTAKE_URL=" + s.fronts[0].url(), "INTAKE_CLIENT_ID=acme",
					"INTAKE_CLIENT_SECRET=" + s.secret}
				got := outputIn(t, dir, environment, append(program, amounts...)...)
				checkClient(t, s, name, got)
			}
		})
	}
}

// outputIn runs a program in dir, and returns what it prints.
func outputIn(t *testing.T, dir string, environment []string, program ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), program[0], program[1:]...)
	command.Dir, command.Env = dir, append(os.Environ(), environment...)
	var errors strings.Builder
	command.Stderr = &errors
	output, err := command.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s\n%s", program, err, output, errors.String())
	}
	return string(output)
}

func checkClient(t *testing.T, s *stack, name, got string) {
	t.Helper()
	var want []string
	for _, what := range []string{"answer", "status"} {
		for i, amount := range amounts {
			want = append(want, fmt.Sprintf("%s %s-%d Completed saved %s", what, name, i, amount))
		}
	}
	want = append(want, fmt.Sprintf("record %s-0 1 true", name), "refused 400 no_items", "refused 401 token_invalid")
	if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(got), "\n")); diff != "" {
		t.Errorf("%s: it should print (-) and printed (+):\n%s", name, diff)
	}
	for i, amount := range amounts {
		const saved = "select count(*) from saved_clients where partner_client_id = $1 and total_amount = $2::text::numeric"
		if s.count(t, saved, fmt.Sprintf("%s-%d", name, i), amount) != 1 {
			t.Errorf("%s: %s is not what is saved", name, amount)
		}
	}
}
