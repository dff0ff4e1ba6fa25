package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/joho/godotenv"
	"golang.org/x/term"

	"intake/cmd/intake/internal/sender"
)

type sendCommand struct {
	frontFlags
	Files       []string      `arg:"" optional:"" name:"file" help:"Files of batches: JSON arrays of items, one after the other, plain or compressed with gzip or zstd. Standard input if none, or -."`
	Concurrency int           `default:"4" help:"Batches under way at once."`
	RetryFor    time.Duration `default:"2m" help:"How long a batch is sent again while the front is away or can't take it."`
	Stream      bool          `xor:"check" help:"Send all batches over one connection, as application/x-ndjson."`
	DryRun      bool          `xor:"how" help:"Have the batches judged, and save nothing of them."`
	Check       bool          `xor:"how,check" help:"Compare the items with what is saved, and save nothing."`
	JSON        bool          `name:"json" help:"Print one JSON object a line: each item that was not saved, then the totals."`
}

func (c sendCommand) Run(ctx context.Context, out output) error {
	if _, err := c.findFront(); err != nil {
		return err
	}
	s, err := sender.New(sender.Options{
		URL: c.URL, ClientID: c.ClientID, ClientSecret: c.ClientSecret, TokenURL: c.TokenURL,
		Concurrency: c.Concurrency, RetryFor: c.RetryFor, DryRun: c.DryRun, Check: c.Check,
	})
	if err != nil {
		return err
	}
	defer s.Close()
	if len(c.Files) == 0 {
		c.Files = []string{"-"}
	}
	step, stop := showProgress(c.Files)
	report := sender.NewReport(out, c.JSON, step)
	send := s.Send
	if c.Stream {
		send = s.Stream
	}
	err = send(ctx, c.Files, report)
	stop()
	if err := errors.Join(err, report.Finish()); err != nil {
		return err
	}
	if !report.IsSaved() {
		return exitStatus(1)
	}
	return nil
}

// frontFlags say where the front is, and who sends to it.
type frontFlags struct {
	URL          string `name:"url" help:"The front, as in https://intake.example.com. Not given, it is read from DATA/up.env, with the credentials."`
	ClientID     string `name:"client-id" help:"The partner's client id."`
	ClientSecret string `name:"client-secret" help:"The partner's client secret."`
	TokenURL     string `name:"token-url" help:"Where tokens are given out; the front's own /oauth/token if not given."`
	Data         string `default:".intake" help:"Folder of an intake up on this machine, whose front is used if no URL is given."`
}

// findFront takes the credentials of a stack on this machine if no URL is given.
// It gives what else is known of that stack.
func (f *frontFlags) findFront() (env map[string]string, err error) {
	if f.URL != "" {
		return nil, nil
	}
	file := filepath.Join(f.Data, envFile)
	env, err = godotenv.Read(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no --url is given, and there is no %s of a running intake up", file)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	f.URL = env["INTAKE_URL"]
	if f.ClientID == "" {
		f.ClientID, f.ClientSecret = env["INTAKE_CLIENT_ID"], env["INTAKE_CLIENT_SECRET"]
	}
	return env, nil
}

// showProgress shows on standard error how files are sent. It counts what was
// read of the files.
func showProgress(files []string) (step func(bytes, items int64), stop func()) {
	var total int64
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			total += info.Size()
		}
	}
	bytes := &progress.Tracker{Message: "read", Total: total, Units: progress.UnitsBytes}
	items := &progress.Tracker{Message: "items answered"}
	stop = showTrackers(bytes, items)
	return func(b, n int64) {
		bytes.Increment(b)
		items.Increment(n)
	}, stop
}

// showSteps shows on standard error how far a command is.
func showSteps(message string, total int64) (step func(n int64), stop func()) {
	tracker := &progress.Tracker{Message: message, Total: total}
	return tracker.Increment, showTrackers(tracker)
}

// showTrackers shows bars on standard error until it is stopped, if that is a
// terminal.
func showTrackers(trackers ...*progress.Tracker) (stop func()) {
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		return func() {}
	}
	w := progress.NewWriter()
	w.SetOutputWriter(os.Stderr)
	w.SetUpdateFrequency(100 * time.Millisecond)
	w.SetAutoStop(true)
	w.Style().Visibility.ETA = true
	w.AppendTrackers(trackers)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Render()
	}()
	return sync.OnceFunc(func() {
		for _, tracker := range trackers {
			tracker.MarkAsDone()
		}
		<-ended
	})
}
