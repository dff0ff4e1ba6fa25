package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
)

// compareCells are the cells that are compared by default.
const compareCells = "1x12@1,1x12@64,100x12@16,1000x12@16"

// A comparison is of two revisions of Intake.
type comparison struct {
	A     string   `json:"a"`
	B     string   `json:"b"`
	Cells []result `json:"cells"`
}

// compare measures two revisions of Intake in turn, each with servers of its own but
// Postgres. The load is the same program for both.
func (b *bench) compare(ctx context.Context, r *results) error {
	revisions := [2]string(b.revisions)
	var programs [2]string
	for i, revision := range revisions {
		var err error
		if programs[i], err = b.build(ctx, revision); err != nil {
			return err
		}
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	var systems [2]*system
	for i, name := range []string{"a", "b"} {
		var err error
		if systems[i], err = b.startIntake(ctx, name, programs[i]); err != nil {
			return fmt.Errorf("%s: %w", revisions[i], err)
		}
	}
	if err := b.warmUp(ctx, systems[:]...); err != nil {
		return err
	}
	r.Compare = &comparison{A: revisions[0], B: revisions[1]}
	for _, c := range b.cells {
		measured, err := b.measureRounds(ctx, c, b.rounds, systems[:]...)
		if err != nil {
			return err
		}
		r.Compare.Cells = append(r.Compare.Cells, *measured)
	}
	return nil
}

// build builds Intake at a revision in a worktree that is removed afterwards. A file is
// taken as a program that is built, and a folder as a checkout, with what is not committed.
func (b *bench) build(ctx context.Context, revision string) (program string, err error) {
	tree := revision
	info, err := os.Stat(revision)
	switch {
	case err == nil && !info.IsDir():
		return filepath.Abs(revision)
	case err != nil:
		place, err := os.MkdirTemp(b.dir, "tree-")
		if err != nil {
			return "", err
		}
		tree = filepath.Join(place, "intake")
		if err := do(ctx, ".", "git", "worktree", "add", "--detach", tree, revision); err != nil {
			return "", err
		}
		defer func() {
			// A canceled context must not leave it behind.
			removed := do(context.WithoutCancel(ctx), ".", "git", "worktree", "remove", "--force", tree)
			if err == nil {
				err = removed
			}
		}()
	}
	fmt.Fprintf(os.Stderr, "building %s\n", revision)
	out, err := os.CreateTemp(b.dir, "intake-")
	if err != nil {
		return "", err
	}
	if err := out.Close(); err != nil {
		return "", err
	}
	// As make build does, so that both share the build cache.
	err = do(ctx, tree, "env", "CGO_ENABLED=0",
		"go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", out.Name(), "./cmd/intake")
	if err != nil {
		return "", err
	}
	return out.Name(), os.Chmod(out.Name(), 0o755)
}

func do(ctx context.Context, dir string, command ...string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, out)
	}
	return nil
}

func (c *comparison) print(out io.Writer, r *results) {
	fmt.Fprintf(out, "A: %s\nB: %s\n\n", c.A, c.B)
	fmt.Fprint(out, "Ratios are B / A, the median of the rounds and their range. CPU is of all processes but the load.\n\n")
	t := newTable(out, "batch", "at once", "items", "A items/s", "B", "B / A",
		"A p50 ms", "B", "B / A", "A CPU µs/item", "B", "B / A")
	for i := range c.Cells {
		m := &c.Cells[i]
		row := table.Row{m.Cell.batch(), m.Cell.Concurrency, m.Cell.what()}
		for _, f := range []struct {
			figure func(*measurement) float64
			digits int
		}{{itemsOf, 0}, {p50Of, 2}, {cpuOfAll, 1}} {
			for _, system := range []string{"a", "b"} {
				row = append(row, fmt.Sprintf("%.*f", f.digits, m.of(system, f.figure).Median))
			}
			row = append(row, m.ratio("b", "a", f.figure).ratio())
		}
		t.AppendRow(row)
	}
	r.render(t)
	fmt.Fprintln(out)
	t = newTable(out, "CPU µs/item", "at once", "items", "of", "front", "worker", "nats", "redis", "postgres", load,
		"items a publication", "a transaction", "WAL B/claim", "heap", "MiB")
	for i := range c.Cells {
		m := &c.Cells[i]
		for _, name := range []string{"a", "b"} {
			row := table.Row{m.Cell.batch(), m.Cell.Concurrency, m.Cell.what(), strings.ToUpper(name)}
			t.AppendRow(append(row, m.details(name, intakeProcesses)...))
		}
	}
	r.render(t)
}
