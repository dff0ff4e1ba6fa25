package intake_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// A document is a Markdown file, split into what is shown and what is code.
type document struct {
	file  string
	lines []string
	prose string // without code
	code  []string
	// anchors are those of its headings.
	anchors map[string]bool
}

var (
	fence    = regexp.MustCompile("^ *```")
	heading  = regexp.MustCompile(`^#+ +(.*)$`)
	codeSpan = regexp.MustCompile("`[^`]+`")
)

// readDocument reads a Markdown file.
func readDocument(t *testing.T, file string) *document {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := &document{file: file, lines: strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"),
		anchors: make(map[string]bool)}
	var prose strings.Builder
	fenced := false
	for _, line := range d.lines {
		switch {
		case fence.MatchString(line):
			fenced = !fenced
		case fenced:
			d.code = append(d.code, line)
		default:
			if match := heading.FindStringSubmatch(line); match != nil {
				d.anchors[anchorOf(match[1])] = true
			}
			prose.WriteString(line + "\n")
		}
	}
	if fenced {
		t.Errorf("%s: a code block does not end", file)
	}
	for _, span := range codeSpan.FindAllString(prose.String(), -1) {
		d.code = append(d.code, strings.ReplaceAll(strings.Trim(span, "`"), "\n", " "))
	}
	d.prose = codeSpan.ReplaceAllString(prose.String(), "")
	return d
}

// anchorOf returns the anchor of a heading on a code host.
func anchorOf(title string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, strings.TrimSpace(title))
}

// documents returns all Markdown files of the project.
func documents(t *testing.T) map[string]*document {
	t.Helper()
	docs := make(map[string]*document)
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules" ||
			entry.Name() == "bin"):
			return fs.SkipDir
		case !entry.IsDir() && strings.HasSuffix(file, ".md"):
			docs[filepath.ToSlash(file)] = readDocument(t, file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) < 8 {
		t.Fatalf("found %d documents", len(docs))
	}
	return docs
}

// The front page is read in three minutes, and every document fits a terminal. Only
// in README.md must the rows of tables fit, too: elsewhere they can't be wrapped.
func TestDocuments_Width(t *testing.T) {
	t.Parallel()
	const maxLines, maxColumns = 160, 130
	for file, d := range documents(t) {
		if file == "README.md" && len(d.lines) > maxLines {
			t.Errorf("%s has %d lines, at most %d are allowed", file, len(d.lines), maxLines)
		}
		for i, line := range d.lines {
			if n := utf8.RuneCountInString(line); n > maxColumns &&
				(file == "README.md" || !strings.HasPrefix(line, "|")) {
				t.Errorf("%s:%d has %d columns, at most %d are allowed", file, i+1, n, maxColumns)
			}
		}
	}
}

// Every relative link leads to a file, and every anchor to a heading.
func TestDocuments_Links(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`(?m)\]\(([^)\s]+)\)|^\[[^]]+\]: +(\S+)`)
	docs := documents(t)
	links := 0
	for file, d := range docs {
		for _, match := range link.FindAllStringSubmatch(d.prose, -1) {
			target := match[1] + match[2]
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			links++
			name, anchor, _ := strings.Cut(target, "#")
			to := file
			if name != "" {
				to = filepath.ToSlash(filepath.Join(filepath.Dir(file), name))
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s, which is not there", file, target)
				continue
			}
			if anchor != "" && (docs[to] == nil || !docs[to].anchors[anchor]) {
				t.Errorf("%s links to %s, and there is no such heading", file, target)
			}
		}
	}
	if links < 50 {
		t.Errorf("found %d links", links)
	}
}

// Every make target, intake command and test that a document names exists.
func TestDocuments_Commands(t *testing.T) {
	t.Parallel()
	var (
		makeTarget = regexp.MustCompile(`\bmake ([a-z][a-z-]*)`)
		command    = regexp.MustCompile(`(?:^|[\s/])(?:intake|docker compose run --rm migrate) ([a-z]+)(?: ([a-z]+)\b)?`)
		goTest     = regexp.MustCompile(`go test -run (Test\w+) \./(\S+)`)
	)
	targets, commands := makeTargets(t), intakeCommands(t)
	named := make(map[string]int)
	docs := documents(t)
	delete(docs, "CHANGELOG.md") // it names what is gone, too
	for file, d := range docs {
		for _, code := range d.code {
			for _, match := range makeTarget.FindAllStringSubmatch(code, -1) {
				named["make"]++
				if !targets[match[1]] {
					t.Errorf("%s names make %s, and there is no such target", file, match[1])
				}
			}
			for _, match := range command.FindAllStringSubmatch(code, -1) {
				named["intake"]++
				below, ok := commands[match[1]]
				if !ok || len(below) > 0 && match[2] != "" && !below[match[2]] {
					t.Errorf("%s names intake %s %s, and there is no such command", file, match[1], match[2])
				}
			}
			for _, match := range goTest.FindAllStringSubmatch(code, -1) {
				named["test"]++
				if !hasTest(t, match[2], match[1]) {
					t.Errorf("%s names %s, and ./%s has no such test", file, match[1], match[2])
				}
			}
		}
	}
	if named["make"] < 20 || named["intake"] < 30 || named["test"] < 3 {
		t.Errorf("found only %v", named)
	}
}

// makeTargets returns the targets of the Makefile.
func makeTargets(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	targets := make(map[string]bool)
	for _, match := range regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllStringSubmatch(string(text), -1) {
		targets[match[1]] = true
	}
	return targets
}

// intakeCommands returns the commands of cmd/intake, each with those below it, from
// the fields that are tagged as such.
func intakeCommands(t *testing.T) map[string]map[string]bool {
	t.Helper()
	files, err := filepath.Glob("cmd/intake/*.go")
	if err != nil {
		t.Fatal(err)
	}
	types := make(map[string]*ast.StructType)
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			if spec, ok := node.(*ast.TypeSpec); ok {
				if body, ok := spec.Type.(*ast.StructType); ok {
					types[spec.Name.Name] = body
				}
			}
			return true
		})
	}
	commands := make(map[string]map[string]bool)
	for name, kind := range commandsOf(types["commands"]) {
		commands[name] = make(map[string]bool)
		for below := range commandsOf(types[kind]) {
			commands[name][below] = true
		}
	}
	return commands
}

// commandsOf returns the commands among the fields of a struct, each with its type.
func commandsOf(body *ast.StructType) map[string]string {
	commands := make(map[string]string)
	if body == nil {
		return commands
	}
	for _, field := range body.Fields.List {
		if field.Tag == nil {
			continue
		}
		text, _ := strconv.Unquote(field.Tag.Value)
		tag := reflect.StructTag(text)
		if _, ok := tag.Lookup("cmd"); !ok {
			continue
		}
		kind, _ := field.Type.(*ast.Ident)
		for _, name := range field.Names {
			called := strings.ToLower(name.Name)
			if given, ok := tag.Lookup("name"); ok {
				called = given
			}
			commands[called] = ""
			if kind != nil {
				commands[called] = kind.Name
			}
		}
	}
	return commands
}

// hasTest reports whether a folder has a test whose name begins like that.
func hasTest(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name) {
			return true
		}
	}
	return false
}
