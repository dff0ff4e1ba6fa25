// Command bench compares Intake with other ways to save the same batches in the same
// Postgres, and revisions of Intake with each other.
//
// It starts private servers, and each system and the load as separate processes. Run it
// with make bench.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
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

const usage = `usage: bench [flags] [MODE]

  table        Intake beside its peers; the default
  short        fewer cells and rounds
  disks        one request at a time, on disks that take longer to sync
  growth       as records grow to 5 million
  soak         five minutes at two thirds of the best rate
  lanes        partners with small batches, beside one with a lot queued
  overload     five times what can be saved
  compare A B  two revisions of Intake: commits, folders with a checkout, or programs
  show FILE    print results that were written as JSON, as Markdown

`

func run(ctx context.Context) error {
	// The other processes are this program with another first argument.
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "naive":
			return serveNaive(ctx, os.Args[2])
		case "grouped":
			return serveGrouped(ctx, os.Args[2])
		case "nats":
			return serveNATS(ctx, os.Args[2])
		}
	}
	b := new(bench)
	program := flag.String("intake", "bin/intake", "the program to measure, which also makes the load")
	cells := flag.String("cells", "", "measure these cells, as in \"1x12@64,1000x12@16+saved\": "+
		"items x claims @ concurrent batches, and +saved, +mixed, +echo, +async, +daily")
	output := flag.String("json", "", "file for the results as JSON")
	flag.IntVar(&b.rounds, "rounds", 5, "how many times a cell is measured")
	flag.DurationVar(&b.seconds, "seconds", 2*time.Second, "how long a cell is measured in a round")
	delay := flag.Duration("sync-delay", 0,
		"let each sync of Postgres and NATS take this much longer, like a slower disk")
	flag.StringVar(&b.profiles, "profiles", "", "folder for CPU profiles of front and worker, one a cell")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	flag.Parse()
	mode, args := cmp.Or(flag.Arg(0), "table"), flag.Args()[min(1, flag.NArg()):]
	if mode == "show" && len(args) == 1 {
		return show(args[0])
	}
	m, ok := modes[mode]
	if !ok || len(args) != m.args {
		flag.Usage()
		return fmt.Errorf("unknown arguments %q", flag.Args())
	}
	if mode == "short" {
		b.rounds, b.seconds = min(b.rounds, 3), min(b.seconds, 1500*time.Millisecond)
	}
	var err error
	if m.cells != "" {
		if b.cells, err = parseCells(cmp.Or(*cells, m.cells)); err != nil {
			return err
		}
	}
	b.revisions = args
	if *delay > 0 || mode == "disks" {
		if b.delay, err = newSyncDelay(); err != nil {
			return err
		}
		b.delay.set(*delay)
	}
	if b.program, err = filepath.Abs(*program); err != nil {
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
	results := &results{Began: time.Now().UTC(), Machine: machine(), Rounds: b.rounds}
	if *delay > 0 {
		results.Delay = delay.String()
	}
	if err := m.measure(b, ctx, results); err != nil {
		return err
	}
	results.Postgres = b.version
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

// modes are what can be measured.
var modes = map[string]struct {
	measure func(*bench, context.Context, *results) error
	cells   string // unless others are asked for; empty: it has none
	args    int
}{
	"table":    {(*bench).table, tableCells, 0},
	"short":    {(*bench).table, shortCells, 0},
	"disks":    {(*bench).disks, diskCells, 0},
	"growth":   {(*bench).growth, growthCells, 0},
	"soak":     {(*bench).soak, "", 0},
	"lanes":    {(*bench).lanes, "", 0},
	"overload": {(*bench).overload, overloadCells, 0},
	"compare":  {(*bench).compare, compareCells, 2},
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

// machine describes the machine that this is measured on.
func machine() string {
	return fmt.Sprintf("%s/%s, %d processors, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
}
