package main

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
)

// flagsOf returns the flags of all commands, by command and name.
func flagsOf(t *testing.T) map[string]*kong.Flag {
	t.Helper()
	parser, err := kong.New(new(commands), parserOptions...)
	if err != nil {
		t.Fatal(err)
	}
	flags := make(map[string]*kong.Flag)
	if err := kong.Visit(parser.Model.Node, func(node kong.Visitable, next kong.Next) error {
		if node, ok := node.(*kong.Node); ok {
			for _, flag := range node.Flags {
				if flag.Name != "help" {
					flags[strings.TrimSpace(node.Path()+" --"+flag.Name)] = flag
				}
			}
		}
		return next(nil)
	}); err != nil {
		t.Fatal(err)
	}
	return flags
}

// A flag is a variable too, of the same name, except where a variable that is left in
// the environment would destroy something, change what a partner may do, or reach
// another command's flag that shares the name and not the meaning.
func TestFlags_Variables(t *testing.T) {
	t.Parallel()
	var without []string
	flags := flagsOf(t)
	for name, flag := range flags {
		variable := "INTAKE_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
		switch {
		case len(flag.Envs) == 0:
			without = append(without, name)
		case len(flag.Envs) > 1 || flag.Envs[0] != variable:
			t.Errorf("%s has %v, want %s", name, flag.Envs, variable)
		}
	}
	slices.Sort(without)
	want := lines(`
		--version
		dead --json
		dead drop --all
		dead retry --all
		generate --currency
		generate --seed
		key --json
		key drop --force
		key rotate --after
		migrate --new-epoch
		partner --json
		partner add --currency
		partner add --entity-types
		partner rotate --overlap
		partner set --burst
		partner set --bytes
		partner set --items-per-second
		partner set --requests
		recover --json
		replay --duration
		replay --fail-if
		replay --json
		replay --rate
		seen rebuild --rate
		send --check
		send --dry-run
		send --json
		status --json
		token --json`)
	for i := range without { // kong adds a command's arguments to its path
		without[i] = regexp.MustCompile(` <[^>]*>| \[[^]]*\]`).ReplaceAllString(without[i], "")
	}
	if diff := cmp.Diff(want, without); diff != "" || len(flags) < 50 {
		t.Errorf("of %d flags these should have no variable (-), and have none (+):\n%s", len(flags), diff)
	}
}

func lines(text string) (lines []string) {
	for line := range strings.Lines(strings.TrimSpace(text)) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

// A variable that is empty leaves the default, whatever kind of flag it is.
func TestFlags_Empty(t *testing.T) {
	variables := make(map[string]bool)
	for _, flag := range flagsOf(t) {
		for _, variable := range flag.Envs {
			variables[variable] = true
		}
	}
	parse := func(args []string) (cli commands) {
		t.Helper()
		parser, err := kong.New(&cli, parserOptions...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(args); err != nil {
			t.Errorf("%v: %v", args, err)
		}
		return cli
	}
	servers := []string{"--postgres-url=p", "--nats-url=n"}
	for _, args := range [][]string{append([]string{"front"}, servers...), append([]string{"worker"}, servers...),
		{"up"}, {"migrate", servers[0]}, {"healthcheck"}, {"generate"}} {
		for variable := range variables {
			t.Setenv(variable, "")
			os.Unsetenv(variable)
		}
		want := parse(args)
		for variable := range variables {
			t.Setenv(variable, "")
		}
		unsetEmpty()
		if got := parse(args); !reflect.DeepEqual(got, want) {
			t.Errorf("%v: %+v, want %+v", args, got, want)
		}
	}
}

// What .env.example shows are the defaults, and what docker-compose.yml passes on is
// empty unless it is set.
func TestCompose_Defaults(t *testing.T) {
	t.Parallel()
	compose, err := os.ReadFile("../../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../../.env.example")
	if err != nil {
		t.Fatal(err)
	}
	shown := make(map[string]string)
	for _, match := range regexp.MustCompile(`(?m)^(INTAKE_[A-Z_]+)=(.*)$`).FindAllStringSubmatch(string(example), -1) {
		shown[match[1]] = match[2]
	}
	const theirs = "INTAKE_IMAGE INTAKE_VERSION INTAKE_PORT INTAKE_TLS_DIR INTAKE_PUBLIC_URL" // compose's own, or with a default of its own
	for _, name := range strings.Fields(theirs) {
		delete(shown, name)
	}
	taken := make(map[string]bool)
	for name, flag := range flagsOf(t) {
		if command := strings.Fields(name)[0]; command != "front" && command != "worker" && command != "--log-level" {
			continue
		}
		variable := flag.Envs[0]
		value, ok := shown[variable]
		if !ok {
			continue
		}
		if fallback := strings.TrimPrefix(flag.Default, "false"); strings.TrimPrefix(value, "false") != fallback {
			t.Errorf("%s: .env.example has %q, the default is %q", variable, value, fallback)
		}
		if line := variable + ": ${" + variable + ":-}"; !strings.Contains(string(compose), line) {
			t.Errorf("docker-compose.yml lacks %s", line)
		}
		taken[variable] = true
	}
	for variable := range shown {
		if !taken[variable] {
			t.Errorf("neither front nor worker has %s", variable)
		}
	}
}
