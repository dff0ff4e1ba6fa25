package front_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pb33f/libopenapi"

	"intake/cmd/intake/internal/front"
	"intake/cmd/intake/internal/reference"
)

// The document lists the codes of the front's problems, each with its status, and
// no others.
func TestProblem_Documented(t *testing.T) {
	t.Parallel()
	document, err := libopenapi.NewDocument(reference.Document())
	if err != nil {
		t.Fatal(err)
	}
	model, err := document.BuildV3Model()
	if err != nil {
		t.Fatal(err)
	}
	described, listed := make(map[string]int), make(map[string]int)
	for _, row := range regexp.MustCompile("(?m)^\\| `([0-9]{3})` \\| `([a-z0-9_]+)` \\| .+ \\|$").FindAllStringSubmatch(model.Model.Info.Description, -1) {
		described[row[2]], _ = strconv.Atoi(row[1])
	}
	var codes []string
	if err := model.Model.Components.Schemas.GetOrZero("Problem").Schema().Properties.GetOrZero("code").Schema().
		Extensions.GetOrZero("x-extensible-enum").Decode(&codes); err != nil {
		t.Fatal(err)
	}
	for _, code := range codes {
		listed[code] = described[code]
	}
	want := front.ProblemStatuses()
	if diff := cmp.Diff(want, described); diff != "" {
		t.Errorf("the codes (-) and those that the document describes (+) differ:\n%s", diff)
	}
	if diff := cmp.Diff(want, listed); diff != "" {
		t.Errorf("the codes (-) and those that the schema lists (+) differ:\n%s", diff)
	}
	for code, status := range want {
		if http.StatusText(status) == "" || status < 400 {
			t.Errorf("%s has the status %d", code, status)
		}
	}
}

// The type of a problem leads to where it is described.
func TestProblem_Type(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	f.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	get := func(code string) *answer {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+"/problems/"+code, nil)
		if err != nil {
			t.Fatal(err)
		}
		return f.do(t, request)
	}
	for code := range front.ProblemStatuses() {
		if a := get(code); a.status != http.StatusSeeOther || a.header.Get("Location") != "/docs#description/problems" {
			t.Errorf("%s: %d %v", code, a.status, a.header)
		}
	}
	get("unheard_of").checkProblem(t, http.StatusNotFound, "no problem with this code")
}

// A refusal without a code would be no use to a program.
func TestProblem_EachHasACode(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen, codes := 0, 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			if constant, ok := node.(*ast.ValueSpec); ok {
				if name, ok := constant.Type.(*ast.Ident); ok && name.Name == "problemCode" {
					codes++
				}
			}
			literal, ok := node.(*ast.CompositeLit)
			if !ok {
				return true
			}
			if name, ok := literal.Type.(*ast.Ident); !ok || name.Name != "problem" {
				return true
			}
			seen++
			for _, element := range literal.Elts {
				if pair, ok := element.(*ast.KeyValueExpr); ok && pair.Key.(*ast.Ident).Name == "code" {
					return true
				}
			}
			t.Errorf("%s: a problem without a code", set.Position(literal.Pos()))
			return true
		})
	}
	if codes != len(front.ProblemStatuses()) {
		t.Errorf("there are %d codes, and statuses of %d", codes, len(front.ProblemStatuses()))
	}
	if seen < 20 {
		t.Errorf("only %d problems were found", seen)
	}
}
