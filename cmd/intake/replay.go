package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"golang.org/x/term"

	"intake/cmd/intake/internal/sender"
	"intake/cmd/intake/internal/traffic"
)

type replayCommand struct {
	frontFlags
	Files       []string      `arg:"" name:"file" help:"Files of batches, as of intake send or intake generate."`
	Rate        float64       `help:"Batches a second, whether answers come or not; latency counts from when a batch was due. 0: as fast as it goes."`
	Concurrency int           `help:"Bound on the batches under way; 16, or 1000 at a rate, if 0."`
	Duration    time.Duration `help:"How long to send, over and over. 0: each batch --loop times."`
	Loop        int           `default:"1" help:"How many times to send each batch, without --duration."`
	FreshKeys   bool          `help:"Send new clients each time: every key gets a new beginning."`
	Async       bool          `help:"Don't wait until batches are saved (Prefer: respond-async)."`
	JSON        bool          `name:"json" help:"Print the report as JSON."`
	HTML        string        `name:"html" help:"Write the report as a page with plots to this file."`
	Verify      bool          `help:"Afterwards compare every answer with what is in Postgres; exits 1 if one was untrue."`
	PostgresURL string        `name:"postgres-url" help:"The data store, for --verify. Not given, it is read from DATA/up.env."`
	MaxMemory   int64         `default:"1073741824" help:"Bound on the bytes of batches held in memory."`
}

func (c replayCommand) Run(ctx context.Context, out output) error {
	env, err := c.findFront()
	if err != nil {
		return err
	}
	if c.PostgresURL == "" {
		c.PostgresURL = env["INTAKE_POSTGRES_URL"]
	}
	if c.Verify && c.PostgresURL == "" {
		return fmt.Errorf("--verify needs --postgres-url")
	}
	batches, err := c.load()
	if err != nil {
		return err
	}
	options := traffic.ReplayOptions{
		URL: c.URL, ClientID: c.ClientID, ClientSecret: c.ClientSecret, TokenURL: c.TokenURL, Batches: batches,
		Rate: c.Rate, Concurrency: c.Concurrency, Duration: c.Duration, Loop: c.Loop, FreshKeys: c.FreshKeys, Async: c.Async, Keep: c.Verify,
	}
	if c.FreshKeys {
		options.Salt = int(time.Now().UnixMicro())
	}
	report, err := traffic.Replay(ctx, options, liveLine())
	if err != nil {
		return err
	}
	return c.show(ctx, report, out)
}

// load reads all batches: from a disk they could not be sent as fast.
func (c replayCommand) load() (batches []*traffic.Template, err error) {
	bytes := int64(0)
	for _, file := range c.Files {
		err := sender.Batches(file, nil, func(batch sender.Batch) bool {
			bytes += int64(len(batch.Items))
			batches = append(batches, traffic.NewTemplate(append([]byte(nil), batch.Items...)))
			return bytes <= c.MaxMemory
		})
		if err != nil {
			return nil, err
		}
	}
	if bytes > c.MaxMemory {
		return nil, fmt.Errorf("the batches are larger than --max-memory, %d bytes", c.MaxMemory)
	}
	return batches, nil
}

// liveLine shows how it goes on standard error, if that is a terminal.
func liveLine() func(*traffic.Report) {
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		return nil
	}
	return func(r *traffic.Report) { fmt.Fprintf(os.Stderr, "\r\x1b[K%s", r.Line()) }
}

func (c replayCommand) show(ctx context.Context, report *traffic.Report, out output) error {
	if term.IsTerminal(int(os.Stderr.Fd())) {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
	var verified *traffic.Verified
	if c.Verify {
		var err error
		if verified, err = traffic.Verify(ctx, c.PostgresURL, report); err != nil {
			return err
		}
	}
	if c.HTML != "" {
		if err := writePage(c.HTML, report); err != nil {
			return err
		}
	}
	if c.JSON {
		if err := json.NewEncoder(out).Encode(map[string]any{"report": report, "verified": verified}); err != nil {
			return err
		}
	} else {
		report.Print(out)
		if verified != nil {
			fmt.Fprintf(out, "verified: %d items of %d batches, %d of them pending at first, %d answers untrue\n",
				verified.Items, verified.Batches, verified.Pending, verified.Wrong)
			for _, example := range verified.Examples {
				fmt.Fprintln(out, example)
			}
		}
	}
	if verified != nil && verified.Wrong > 0 {
		return exitStatus(1)
	}
	return nil
}

func writePage(name string, report *traffic.Report) (err error) {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := file.Close(); err == nil {
			err = closeErr
		}
	}()
	return report.HTML(file, "Intake replay")
}
