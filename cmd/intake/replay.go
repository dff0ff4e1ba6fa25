package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"intake/cmd/intake/internal/sender"
	"intake/cmd/intake/internal/traffic"
)

type replayCommand struct {
	frontFlags
	Files       []string            `arg:"" name:"file" help:"Files of batches, as for intake send or of intake generate."`
	Rate        float64             `env:"-" help:"Batches a second, sent when they are due, answers or not; latency counts from then. 0: as fast as answers come."`
	Concurrency int                 `help:"Most batches without an answer at the same time. 0: 16, or 1000 at a rate."`
	Duration    time.Duration       `env:"-" help:"How long to send, over and over. 0: each batch --loop times."`
	Loop        int                 `default:"1" help:"How many times to send each batch, without --duration."`
	FreshKeys   bool                `help:"Send new clients each time: every key gets a new prefix."`
	Async       bool                `help:"Don't wait until batches are saved (Prefer: respond-async)."`
	Echo        bool                `help:"Let answers have the items' data, as they do by default: without it, replay asks for return=minimal."`
	JSON        bool                `name:"json" env:"-" help:"Print the report as JSON."`
	HTML        string              `name:"html" help:"Write the report as a page with plots to this file."`
	FailIf      []traffic.Threshold `env:"-" sep:"none" default:"failed>0" help:"Exit with 1 if this holds; repeatable. On p50, p90, p99, p99.9, slowest (as in p99>500ms), failed (requests, or a share: failed>1%), rate (batches a second) and items/s."`
	Verify      bool                `help:"Afterwards compare every answer with the records in Postgres; exits 1 if one was untrue."`
	PostgresURL string              `name:"postgres-url" help:"The data store, for --verify. The default is read from DATA/up.env."`
	MaxMemory   int64               `default:"1073741824" help:"Most bytes of batches held in memory."`
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
	var line atomic.Value
	line.Store("reading the batches")
	p := showProgress(func() string { return line.Load().(string) })
	defer p.stop()
	batches, err := c.load(ctx)
	if err != nil {
		return err
	}
	options := traffic.ReplayOptions{
		URL: c.URL, ClientID: c.ClientID, ClientSecret: c.ClientSecret, TokenURL: c.TokenURL, Batches: batches,
		Rate: c.Rate, Concurrency: c.Concurrency, Duration: c.Duration, Loop: c.Loop, FreshKeys: c.FreshKeys,
		Async: c.Async, Echo: c.Echo, Keep: c.Verify,
	}
	if c.FreshKeys {
		options.Salt = int(time.Now().UnixMicro())
	}
	report, err := traffic.Replay(ctx, options, func(r *traffic.Report) { line.Store(r.Line()) })
	if err != nil {
		return err
	}
	var verified *traffic.Verified
	if c.Verify && ctx.Err() == nil {
		line.Store("comparing the answers with the records")
		if verified, err = traffic.Verify(ctx, c.PostgresURL, report); err != nil {
			return err
		}
	}
	p.stop()
	return c.show(ctx, report, verified, out)
}

// load reads all batches: from a disk they could not be sent as fast.
func (c replayCommand) load(ctx context.Context) (batches []*traffic.Template, err error) {
	bytes := int64(0)
	for _, file := range c.Files {
		err := sender.Batches(file, nil, func(batch sender.Batch) bool {
			bytes += int64(len(batch.Items))
			batches = append(batches, traffic.NewTemplate(append([]byte(nil), batch.Items...)))
			return bytes <= c.MaxMemory && ctx.Err() == nil
		})
		if err != nil {
			return nil, err
		}
	}
	if bytes > c.MaxMemory {
		return nil, fmt.Errorf("the batches are larger than --max-memory, %d bytes", c.MaxMemory)
	}
	return batches, ctx.Err()
}

// show prints the report, and returns the exit status as an error.
func (c replayCommand) show(ctx context.Context, report *traffic.Report, verified *traffic.Verified, out output) error {
	var crossed []string
	for _, threshold := range c.FailIf {
		if said, ok := threshold.Crossed(report); ok {
			crossed = append(crossed, said)
		}
	}
	if c.HTML != "" {
		if err := c.writePage(report, verified, crossed); err != nil {
			return err
		}
	}
	if c.JSON {
		shown := struct {
			Report   *traffic.Report   `json:"report"`
			Verified *traffic.Verified `json:"verified,omitempty"`
			Crossed  []string          `json:"crossed,omitempty"`
		}{report, verified, crossed}
		if err := json.NewEncoder(out).Encode(shown); err != nil {
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
	for _, said := range crossed {
		fmt.Fprintln(os.Stderr, "intake:", said)
	}
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "intake: interrupted; batches without an answer may still be saved")
		return exitStatus(statusInterrupted)
	case len(crossed) > 0, verified != nil && verified.Wrong > 0:
		return exitStatus(statusFailed)
	}
	return nil
}

func (c replayCommand) writePage(report *traffic.Report, verified *traffic.Verified, crossed []string) (err error) {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	file, err := os.Create(c.HTML)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := file.Close(); err == nil {
			err = closeErr
		}
	}()
	return report.HTML(file, traffic.Page{
		Target: c.URL, Command: "intake " + strings.Join(withoutSecrets(os.Args[1:]), " "), Version: versionText(),
		Host: fmt.Sprintf("%s, %d CPUs", host, runtime.NumCPU()), Verified: verified, Crossed: crossed,
	})
}

// withoutSecrets masks the client secret and the URL of the data store, which may
// have a password, in a command line.
func withoutSecrets(args []string) []string {
	shown := slices.Clone(args)
	for i, arg := range shown {
		name, _, given := strings.Cut(arg, "=")
		if name != "--client-secret" && name != "--postgres-url" {
			continue
		}
		if given {
			shown[i] = name + "=…"
		} else if i+1 < len(shown) {
			shown[i+1] = "…"
		}
	}
	return shown
}
