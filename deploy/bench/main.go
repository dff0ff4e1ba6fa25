// Command bench measures Intake against what else one could do with the same
// Postgres, all in one run: the bare save of its own data store, the raw COPY of
// the same claims, and a plain handler that saves each request by itself.
//
// It starts private servers, and front, worker and load as processes of their
// own. Run it with make bench.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func main() {
	// The kernel sends the children their death signal when the thread that
	// started them ends: this one.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	// What runs as another process is this program with another first argument.
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "naive":
			return serveNaive(ctx, os.Args[2])
		case "nats":
			return serveNATS(ctx, os.Args[2])
		}
	}
	intake := flag.String("intake", "bin/intake", "the program to measure")
	short := flag.Bool("short", false, "fewer cells, in under two minutes")
	only := flag.String("only", "", "measure only cells whose name has this in it, as in \"1000 x 12, 16\"")
	seconds := flag.Duration("seconds", 4*time.Second, "how long a cell is measured")
	profiles := flag.String("profiles", "", "folder for CPU profiles of front and worker, one a cell")
	output := flag.String("json", "", "file for the results as JSON")
	flag.Parse()
	program, err := filepath.Abs(*intake)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "intake-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // Postgres may run as another user
		return err
	}
	b := &bench{program: program, dir: dir, seconds: *seconds, profiles: *profiles}
	defer b.stop()
	if err := b.start(ctx); err != nil {
		return err
	}
	results := results{Began: time.Now().UTC(), Machine: machine(), Postgres: b.version}
	for _, cell := range cells(*short) {
		if !strings.Contains(cell.String(), *only) {
			continue
		}
		result, err := b.measure(ctx, cell)
		if err != nil {
			return fmt.Errorf("%s: %w", cell, err)
		}
		results.Cells = append(results.Cells, *result)
		fmt.Fprintln(os.Stderr, result.line())
	}
	results.print(os.Stdout)
	if *output == "" {
		return nil
	}
	text, err := json.MarshalIndent(results, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(*output, append(text, '\n'), 0o644)
}

// A shape is what the batches of a cell look like.
type shape struct {
	Items  int  `json:"items"`
	Claims int  `json:"claims"`
	Daily  bool `json:"daily,omitempty"`
}

// A cell is one measurement: batches of a shape, so many under way at once, and
// what part of their items was saved before.
type cell struct {
	shape
	Concurrency int     `json:"concurrency"`
	Saved       float64 `json:"saved"`
}

func (c cell) String() string {
	saved := "all new"
	switch c.Saved {
	case 0.5:
		saved = "half saved before"
	case 1:
		saved = "all saved before"
	}
	return fmt.Sprintf("%d x %d, %d at once, %s", c.Items, c.Claims, c.Concurrency, saved)
}

func cells(short bool) (all []cell) {
	shapes := []shape{{1, 12, false}, {10, 12, false}, {100, 12, false}, {1_000, 12, false}, {5_000, 12, false}, {100, 365, true}}
	if short {
		return []cell{
			{shapes[0], 1, 0}, {shapes[0], 64, 0}, {shapes[2], 16, 0}, {shapes[3], 16, 0}, {shapes[3], 16, 1},
		}
	}
	for _, shape := range shapes {
		for _, concurrency := range []int{1, 16, 64} {
			all = append(all, cell{shape, concurrency, 0})
		}
		all = append(all, cell{shape, 16, 0.5}, cell{shape, 16, 1})
	}
	return all
}

// machine tells what this is measured on.
func machine() string {
	return fmt.Sprintf("%s/%s, %d processors, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
}
