package main

import (
	"debug/buildinfo"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// The product holds no tool of the tests, and no fault injector: what go version -m shows
// of the binary names none of their modules.
func TestBinary_Modules(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "intake")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	var linked []string
	for _, module := range info.Deps {
		linked = append(linked, module.Path)
	}
	if !slices.Contains(linked, "github.com/jackc/pgx/v5") {
		t.Fatalf("the modules do not include pgx: %v", linked)
	}
	for _, tool := range []string{
		"github.com/anishathalye/porcupine",
		"github.com/Shopify/toxiproxy/v2",
		"github.com/bytedance/sonic",
		"github.com/chromedp/chromedp",
		"github.com/google/go-cmp",
		"github.com/rs/zerolog",
		"github.com/stretchr/testify",
		"go.uber.org/goleak",
		"pgregory.net/rapid",
	} {
		if slices.Contains(linked, tool) {
			t.Errorf("the binary is linked with %s", tool)
		}
	}
}
