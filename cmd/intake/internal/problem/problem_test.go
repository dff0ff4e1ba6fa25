package problem_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pb33f/libopenapi"

	"intake/cmd/intake/internal/problem"
	"intake/cmd/intake/internal/reference"
)

// The document lists the codes of problems, each with its status, and
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
	described, listed := make(map[problem.Code]int), make(map[problem.Code]int)
	row := regexp.MustCompile("(?m)^\\| `([0-9]{3})` `([a-z0-9_]+)` \\| .+ \\|$")
	for _, tag := range model.Model.Tags {
		for _, match := range row.FindAllStringSubmatch(tag.Description, -1) {
			described[problem.Code(match[2])], _ = strconv.Atoi(match[1])
		}
	}
	var codes []problem.Code
	if err := model.Model.Components.Schemas.GetOrZero("Problem").Schema().Properties.GetOrZero("code").Schema().
		Extensions.GetOrZero("x-extensible-enum").Decode(&codes); err != nil {
		t.Fatal(err)
	}
	for _, code := range codes {
		listed[code] = described[code]
	}
	want := problem.Statuses()
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

// Every code has a status.
func TestCode_Status(t *testing.T) {
	t.Parallel()
	parsed, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	codes := 0
	ast.Inspect(parsed, func(node ast.Node) bool {
		if constant, ok := node.(*ast.ValueSpec); ok {
			if name, ok := constant.Type.(*ast.Ident); ok && name.Name == "Code" {
				codes++
			}
		}
		return true
	})
	if codes != len(problem.Statuses()) {
		t.Errorf("there are %d codes, and statuses of %d", codes, len(problem.Statuses()))
	}
}

// A problem goes out with its status, its headers and when to try again; as a line of a
// stream it has that in its object. What a shared problem is copied with stays the copy's.
func TestProblem_Write(t *testing.T) {
	t.Parallel()
	shared := problem.New(problem.NoMemory, "no room for %d bytes", 7)
	p := shared.With("X-Limit", "7").After(1500 * time.Millisecond)
	w := httptest.NewRecorder()
	p.Write(w)
	want := http.Header{
		"Content-Type": {"application/problem+json"}, "Cache-Control": {"no-store"},
		"Content-Length": {strconv.Itoa(w.Body.Len())}, "Retry-After": {"2"}, "X-Limit": {"7"},
	}
	if diff := cmp.Diff(want, w.Header()); diff != "" || w.Code != http.StatusServiceUnavailable {
		t.Errorf("status %d, header (-want +got):\n%s", w.Code, diff)
	}
	const object = `{"code":"no_memory","detail":"no room for 7 bytes","status":503,"title":"Service Unavailable","type":"/problems/no_memory"`
	if got := w.Body.String(); got != object+"}\n" {
		t.Errorf("answered %s", got)
	}
	if got, want := string(p.Line()), strings.Replace(object, `,"status"`, `,"retry_after":2,"status"`,
		1)+"}\n"; got != want {
		t.Errorf("the line is %s, want %s", got, want)
	}
	w = httptest.NewRecorder()
	shared.Write(w)
	if w.Header().Get("X-Limit") != "" || w.Header().Get("Retry-After") != "" {
		t.Errorf("the shared problem has the headers of its copy: %v", w.Header())
	}
	if code := problem.CodeOf(fmt.Errorf("wrapped: %w", p)); code != problem.NoMemory {
		t.Errorf("the code of the wrapped problem is %q", code)
	}
	if code := problem.CodeOf(errors.New("another error")); code != "" {
		t.Errorf("the code of another error is %q", code)
	}
}
