package main

import (
	"cmp"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	gocmp "github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the table of settings in README.md")

// README.md's table of settings is the flags of front and worker. After a change
// of a flag, go test -run TestReadme_Settings ./cmd/intake -update rewrites it.
func TestReadme_Settings(t *testing.T) {
	t.Parallel()
	const file, begin, end = "README.md", "<!-- settings: generated from the flags -->\n", "<!-- end of settings -->\n"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	got, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s lacks the markers %q and %q", file, begin, end)
	}
	want := settingsTable(t)
	if *update {
		if err := os.WriteFile(file, []byte(before+begin+want+end+after), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("run go test -run TestReadme_Settings ./cmd/intake -update; the table (-want +got):\n%s", diff)
	}
}

// A setting is a flag as README.md shows it.
type setting struct{ flag, variable, fallback, help string }

// settingsTable returns a Markdown table of the flags of front and worker, in the
// order in which they are declared. Flags that are the same in both are one row.
func settingsTable(t *testing.T) string {
	t.Helper()
	parser, err := kong.New(new(commands), parserOptions...)
	if err != nil {
		t.Fatal(err)
	}
	commandsOf := make(map[setting]string)
	var settings []setting
	add := func(command string, flags []*kong.Flag) {
		for _, f := range flags {
			if f.Name == "help" || f.Name == "version" || f.Hidden {
				continue
			}
			s := setting{f.Name, strings.Join(f.Envs, ", "),
				cmp.Or(f.Default, map[bool]string{true: "required"}[f.Required]), f.Help}
			if commandsOf[s] == "" {
				settings = append(settings, s)
				commandsOf[s] = command
			} else {
				commandsOf[s] += ", " + command
			}
		}
	}
	for _, node := range parser.Model.Children {
		if node.Name == "front" || node.Name == "worker" {
			add(node.Name, node.Flags)
		}
	}
	add("all", parser.Model.Flags)
	var table strings.Builder
	table.WriteString("| flag and variable | for | default | what it sets |\n|---|---|---|---|\n")
	for _, s := range settings {
		fallback := s.fallback
		if fallback != "" && fallback != "required" {
			fallback = "`" + fallback + "`"
		}
		cells := []string{"`--" + s.flag + "` `" + s.variable + "`", commandsOf[s], fallback,
			strings.ReplaceAll(s.help, "|", `\|`)}
		table.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	return table.String()
}
