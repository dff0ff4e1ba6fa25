// Command bench compares Intake with other ways to use the same Postgres, all in one run:
// the bare save of its data store, the raw COPY of the same claims, and a plain handler
// that saves each request in its own transaction.
//
// It starts private servers, and front, worker and load as separate processes. Run it with
// make bench.
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
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	// The kernel sends the children their death signal when the thread that started
	// them ends, which is this one.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	// The other processes are this program with another first argument.
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "naive":
			return serveNaive(ctx, os.Args[2])
		case "nats":
			return serveNATS(ctx, os.Args[2])
		}
	}
	b := new(bench)
	intake := flag.String("intake", "bin/intake", "the program to measure")
	flag.StringVar(&b.only, "only", "", "measure only cells whose name has this in it, as in \"1000 x 12, 16\"")
	output := flag.String("json", "", "file for the results as JSON")
	flag.IntVar(&b.rounds, "rounds", 3, "how often a cell with a target is measured, of which the median is shown; others are once")
	flag.DurationVar(&b.seconds, "seconds", 1500*time.Millisecond, "how long a cell is measured in a round")
	flag.StringVar(&b.profiles, "profiles", "", "folder for CPU profiles of front and worker, one a cell")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: bench [flags] [table | short | growth | soak | lanes | overload | show FILE]\n\nshow prints results that were written as JSON, as Markdown.")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.Arg(0) == "show" && flag.NArg() == 2 {
		return show(flag.Arg(1))
	}
	measure, ok := map[string]func(context.Context, *results) error{
		"": b.table, "table": b.table, "short": b.table, "growth": b.growth, "soak": b.soak, "lanes": b.lanes, "overload": b.overload,
	}[flag.Arg(0)]
	if !ok || flag.NArg() > 1 {
		flag.Usage()
		return fmt.Errorf("unknown arguments %q: want table, short, growth, soak, lanes or overload", flag.Args())
	}
	short := flag.Arg(0) == "short"
	if short {
		b.seconds = min(b.seconds, time.Second)
	}
	all := allCells()
	if short {
		all = targets
	}
	for _, cell := range all {
		if strings.Contains(cell.String(), b.only) {
			b.cells = append(b.cells, cell)
		}
	}
	var err error
	if b.program, err = filepath.Abs(*intake); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "intake-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := os.Chmod(b.dir, 0o755); err != nil { // Postgres may run as another user
		return err
	}
	defer b.stop()
	if err := b.start(ctx); err != nil {
		return err
	}
	results := &results{Began: time.Now().UTC(), Machine: machine(), Postgres: b.version, Rounds: b.rounds}
	if err := measure(ctx, results); err != nil {
		return err
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

func show(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	results := results{markdown: true}
	if err := json.Unmarshal(text, &results); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	results.print(os.Stdout)
	return nil
}

// table measures the cells, and repeats those with a target in rounds, so that other load
// of the machine affects all systems alike.
func (b *bench) table(ctx context.Context, r *results) error {
	rounds := make([][]result, len(b.cells))
	for round := range b.rounds {
		for i, cell := range b.cells {
			if round > 0 && !slices.Contains(targets, cell) {
				continue
			}
			result, err := b.measure(ctx, cell)
			if err != nil {
				return fmt.Errorf("%s: %w", cell, err)
			}
			rounds[i] = append(rounds[i], *result)
			fmt.Fprintf(os.Stderr, "%d/%d  %s\n", round+1, b.rounds, result.line())
		}
	}
	for _, measured := range rounds {
		r.Cells = append(r.Cells, median(measured))
	}
	return b.halfLoad(ctx, r)
}

// A shape is the size of the batches of a cell.
type shape struct {
	Items  int  `json:"items"`
	Claims int  `json:"claims"`
	Daily  bool `json:"daily,omitempty"`
}

// A cell is one measurement: batches of a shape, the number of concurrent ones, and the
// share of their items that was saved before.
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

// targets are the cells with a target.
var targets = []cell{
	{shape{1, 12, false}, 1, 0}, {shape{1, 12, false}, 64, 0}, {shape{100, 12, false}, 16, 0},
	{thousand, 1, 0}, {thousand, 16, 0}, {thousand, 16, 1},
}

func allCells() (all []cell) {
	for _, shape := range []shape{{1, 12, false}, {10, 12, false}, {100, 12, false}, thousand, {5_000, 12, false}, {100, 365, true}} {
		for _, concurrency := range []int{1, 16, 64} {
			all = append(all, cell{shape, concurrency, 0})
		}
		all = append(all, cell{shape, 16, 0.5}, cell{shape, 16, 1})
	}
	return all
}

// machine describes the machine that this is measured on.
func machine() string {
	return fmt.Sprintf("%s/%s, %d processors, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
}
