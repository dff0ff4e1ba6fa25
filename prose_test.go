package intake_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
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

// maxCommentColumns bounds the lines of comments. A tab counts for four columns.
const maxCommentColumns = 120

// Comments are in the words that Go programmers expect, and fit on a screen.
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
		return nil
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
		const tab = 4
		width := tab*(at.Column-1) + utf8.RuneCountInString(comment.Text)
		if ownLine := at.Column <= 8; ownLine && width > maxCommentColumns {
			t.Errorf("%s: the comment has %d columns, more than %d", at, width, maxCommentColumns)
		}
	}
}
