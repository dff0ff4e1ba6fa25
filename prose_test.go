package intake_test

import (
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// prose lists phrases that comments must not hold, and what to write instead.
var prose = []struct {
	phrase  *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`^\w+ gives `), "returns"},
	{regexp.MustCompile(`\btells whether\b`), "reports whether"},
	{regexp.MustCompile(`^\w+ tells `), "returns, describes"},
	{regexp.MustCompile(`\bof late([,.;:]|$)`), "recently"},
	{regexp.MustCompile(`\bwhat became of\b`), "the state of"},
	{regexp.MustCompile(`\b[Ww]hoever\b`), "name the caller"},
	{regexp.MustCompile(`\bstands in for\b`), "replaces"},
	{regexp.MustCompile(`\bmay use it at once\b`), "is safe for concurrent use"},
}

// maxColumns bounds lines. A tab counts for four columns. A line of code may be longer if it has a string
// of longString columns or more: an error text, a query or a help text stays in one piece.
const (
	maxColumns = 120
	longString = 50
	tab        = 4
)

// Comments are in the words that Go programmers expect, and lines fit on a screen.
func TestProse(t *testing.T) {
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata"):
			return fs.SkipDir
		case entry.IsDir() || !strings.HasSuffix(file, ".go"):
			return nil
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, file, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		for _, group := range parsed.Comments {
			checkProse(t, files, group)
		}
		return checkColumns(t, file)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkProse(t *testing.T, files *token.FileSet, group *ast.CommentGroup) {
	t.Helper()
	for _, comment := range group.List {
		at := files.Position(comment.Pos())
		text := strings.TrimPrefix(comment.Text, "// ")
		for _, p := range prose {
			if found := p.phrase.FindString(text); found != "" {
				t.Errorf("%s: %q: write %q", at, found, p.instead)
			}
		}
	}
}

// checkColumns checks the lines of a file.
func checkColumns(t *testing.T, file string) error {
	t.Helper()
	source, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	files := token.NewFileSet()
	var s scanner.Scanner
	s.Init(files.AddFile(file, files.Base(), len(source)), source, nil, 0)
	exempt := make(map[int]bool) // lines with a long string
	for {
		pos, kind, text := s.Scan()
		if kind == token.EOF {
			break
		}
		if kind == token.STRING && utf8.RuneCountInString(text) >= longString {
			first := files.Position(pos).Line
			for n := range strings.Count(text, "\n") + 1 {
				exempt[first+n] = true
			}
		}
	}
	for n, line := range strings.Split(string(source), "\n") {
		width := utf8.RuneCountInString(line) + (tab-1)*strings.Count(line, "\t")
		if width > maxColumns && !exempt[n+1] {
			t.Errorf("%s:%d: the line has %d columns, more than %d", file, n+1, width, maxColumns)
		}
	}
	return nil
}
