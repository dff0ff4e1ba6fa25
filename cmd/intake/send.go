package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"intake/cmd/intake/internal/sender"
	"intake/internal/client"
)

type sendCommand struct {
	frontFlags
	Files       []string      `arg:"" optional:"" name:"file" help:"Files of batches: JSON arrays of items, one after the other, plain or compressed with gzip or zstd. Standard input if none, or -."`
	Concurrency int           `default:"4" help:"How many batches are sent at the same time."`
	RetryFor    time.Duration `default:"2m" help:"How long a batch is retried while the front is down or can't take it."`
	Stream      bool          `xor:"check" help:"Send all batches over one connection, as application/x-ndjson."`
	DryRun      bool          `xor:"how" env:"-" help:"Have the batches judged, and save none of them."`
	Check       bool          `xor:"how,check" env:"-" help:"Compare the items with the saved ones, and save nothing."`
	JSON        bool          `name:"json" env:"-" help:"Print one JSON object a line: each item that was not saved, then the totals."`
}

func (c sendCommand) Run(ctx context.Context, out output) error {
	if _, err := c.findFront(); err != nil {
		return err
	}
	if len(c.Files) == 0 {
		c.Files = []string{"-"}
	}
	var read, answered atomic.Int64
	size := sizeOf(c.Files)
	p := showProgress(func() string {
		of := ""
		if size > 0 {
			of = fmt.Sprintf(" of %.1f", megabytes(size))
		}
		return fmt.Sprintf("read %.1f%s MB, %d items answered", megabytes(read.Load()), of, answered.Load())
	})
	defer p.stop()
	s, err := sender.New(sender.Options{
		URL: c.URL, ClientID: c.ClientID, ClientSecret: c.ClientSecret, TokenURL: c.TokenURL,
		Concurrency: c.Concurrency, RetryFor: c.RetryFor, DryRun: c.DryRun, Check: c.Check,
		Retrying: func(batch sender.Batch, reason error, wait time.Duration) {
			wait = wait.Round(100 * time.Millisecond)
			p.say(reason.Error(), fmt.Sprintf("intake: %s: batch %d: %v; trying again in %s (--retry-for %s)",
				batch.File, batch.Number, reason, wait, c.RetryFor))
		},
	})
	if err != nil {
		return err
	}
	defer s.Close()
	report := sender.NewReport(out, c.JSON, func(bytes, items int64) {
		read.Add(bytes)
		answered.Add(items)
	})
	send := s.Send
	if c.Stream {
		send = s.Stream
	}
	err = send(ctx, c.Files, report)
	p.stop()
	finished := report.Finish()
	switch {
	case ctx.Err() != nil && (c.DryRun || c.Check):
		fmt.Fprintln(os.Stderr, "intake: interrupted")
		return exitStatus(statusInterrupted)
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "intake: interrupted; batches without an answer may still be saved. "+
			"Send the files again to find out: what is saved comes back as a Duplicate with the same data.")
		return exitStatus(statusInterrupted)
	case err != nil || finished != nil:
		return errors.Join(err, finished)
	case !report.IsSaved():
		return exitStatus(statusFailed)
	}
	return nil
}

// sizeOf returns the size of files on disk, or 0 if that of one isn't known.
func sizeOf(files []string) (size int64) {
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil || !info.Mode().IsRegular() {
			return 0
		}
		size += info.Size()
	}
	return size
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }

// frontFlags say where the front is, and who sends to it.
type frontFlags struct {
	URL          string `name:"url" help:"The front, as in https://intake.example.com. The default is read from DATA/up.env, with the credentials."`
	ClientID     string `name:"client-id" help:"The partner's client id."`
	ClientSecret string `name:"client-secret" help:"The partner's client secret."`
	TokenURL     string `name:"token-url" help:"Where tokens are issued. The default is the front's own /oauth/token."`
	Data         string `default:".intake" help:"Folder of an intake up on this machine, whose front is used without --url."`
}

// findFront takes the URL and the credentials of a stack on this machine if no URL
// is given. It returns the other settings of that stack.
func (f *frontFlags) findFront() (env map[string]string, err error) {
	if f.URL != "" {
		return nil, nil
	}
	if env, err = readUpEnv(f.Data); err != nil {
		return nil, err
	}
	f.URL = env["INTAKE_URL"]
	if f.ClientID == "" {
		f.ClientID, f.ClientSecret = env["INTAKE_CLIENT_ID"], env["INTAKE_CLIENT_SECRET"]
	}
	return env, nil
}

// connect returns a client of the front.
func (f *frontFlags) connect() (*client.Client, error) {
	if _, err := f.findFront(); err != nil {
		return nil, err
	}
	return client.New(client.Options{URL: f.URL, ClientID: f.ClientID, ClientSecret: f.ClientSecret,
		TokenURL: f.TokenURL})
}
