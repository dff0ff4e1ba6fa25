package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/nats-io/nats.go"

	"intake/sink"
	"intake/worker"
	"intake/worker/queue"
)

type deadCommand struct {
	NATSURL string `name:"nats-url" required:"" help:"The queue: nats://user:password@host, several separated by commas for a cluster."`
	JSON    bool   `name:"json" env:"-" help:"Print JSON, for programs."`

	List  deadListCommand  `cmd:"" help:"List the dead letters: messages of the queue that no worker could read or save."`
	Show  deadShowCommand  `cmd:"" help:"Show a dead letter, with its items as far as they can be read."`
	Retry deadRetryCommand `cmd:"" help:"Queue dead letters again, after the cause is fixed. One that still can't be saved comes back."`
	Drop  deadDropCommand  `cmd:"" help:"Give up dead letters. Their items that are not saved become Failed."`
}

const deadTimeout = time.Minute

// with calls do with the dead letters.
func (c *deadCommand) with(ctx context.Context, do func(context.Context, *worker.DeadLetters) error) error {
	ctx, cancel := context.WithTimeout(ctx, deadTimeout)
	defer cancel()
	nc, err := connectQueue(ctx, c.NATSURL, "intake dead")
	if err != nil {
		return err
	}
	defer nc.Close()
	letters, err := worker.OpenDeadLetters(ctx, nc)
	if err != nil {
		return err
	}
	return do(ctx, letters)
}

// connectQueue connects to the queue, for at most 10 s.
func connectQueue(ctx context.Context, natsURL, name string) (*nats.Conn, error) {
	nc, err := queue.Connect(natsURL, name, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for nc.Status() != nats.CONNECTED {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			nc.Close()
			return nil, fmt.Errorf("NATS can't be reached within 10 s (--nats-url): %w", dialError(natsURL))
		}
	}
	return nc, nil
}

// dialError says why the first server of a NATS URL can't be reached, without the
// password in it.
func dialError(natsURL string) error {
	first, _, _ := strings.Cut(natsURL, ",")
	parsed, err := url.Parse(first)
	if err != nil {
		return errors.New("it is no URL")
	}
	address := parsed.Host
	if parsed.Port() == "" {
		address = net.JoinHostPort(parsed.Hostname(), "4222")
	}
	conn, err := net.DialTimeout("tcp", address, 2*time.Second)
	if err != nil {
		return err
	}
	conn.Close()
	return fmt.Errorf("%s accepts connections, and refuses this client: look at its user and password", address)
}

func letterCount(n int) string {
	if n == 1 {
		return "1 letter is"
	}
	return fmt.Sprintf("%d letters are", n)
}

type deadListCommand struct{}

func (deadListCommand) Run(ctx context.Context, all *commands, out output) error {
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"number", "since", "partner", "batch", "bytes", "reason"})
	return all.Dead.with(ctx, func(ctx context.Context, letters *worker.DeadLetters) error {
		err := letters.Each(ctx, func(l *worker.DeadLetter) error {
			if all.Dead.JSON {
				return json.NewEncoder(out).Encode(l)
			}
			t.AppendRow(table.Row{l.Sequence, l.Time.UTC().Format(time.DateTime), l.Partner, l.Batch, l.Bytes,
				l.Reason})
			return nil
		})
		if err != nil || all.Dead.JSON {
			return err
		}
		if t.Length() == 0 {
			_, err = fmt.Fprintln(out, "there are no dead letters")
			return err
		}
		t.Render()
		return nil
	})
}

type deadShowCommand struct {
	Number uint64 `arg:"" help:"Number of the letter, as list shows it."`
}

func (c deadShowCommand) Run(ctx context.Context, all *commands, out output) error {
	return all.Dead.with(ctx, func(ctx context.Context, letters *worker.DeadLetters) error {
		l, err := letters.Get(ctx, c.Number)
		if err != nil {
			return err
		}
		items := l.Items()
		if all.Dead.JSON {
			shown := struct {
				*worker.DeadLetter
				Items []json.RawMessage `json:"items"`
			}{DeadLetter: l}
			for _, item := range items {
				if json.Valid(item) {
					shown.Items = append(shown.Items, item)
				}
			}
			return json.NewEncoder(out).Encode(shown)
		}
		fmt.Fprintf(out, "number   %d\nsince    %s\npartner  %s\nbatch    %s\nbytes    %d\nreason   %s\nitems    %d can be read\n",
			l.Sequence, l.Time.UTC().Format(time.DateTime), l.Partner, l.Batch, l.Bytes, l.Reason, len(items))
		for _, item := range items {
			fmt.Fprintf(out, "%s\n", item)
		}
		return nil
	})
}

// chosen are the letters that a command is for.
type chosen struct {
	Numbers []uint64 `arg:"" optional:"" name:"number" help:"Numbers of the letters, as list shows them."`
	All     bool     `env:"-" help:"All dead letters."`
}

// each calls do with each of the chosen letters, and returns their number.
func (c chosen) each(ctx context.Context, letters *worker.DeadLetters,
	do func(context.Context, *worker.DeadLetter) error) (n int, err error) {
	counted := func(l *worker.DeadLetter) error {
		err := do(ctx, l)
		if err == nil {
			n++
		}
		return err
	}
	if c.All == (len(c.Numbers) > 0) {
		return 0, errors.New("specify the numbers of the letters, or --all")
	}
	if c.All {
		err = letters.Each(ctx, counted)
		return n, err
	}
	for _, number := range c.Numbers {
		l, err := letters.Get(ctx, number)
		if err == nil {
			err = counted(l)
		}
		if err != nil {
			return n, fmt.Errorf("dead letter %d: %w", number, err)
		}
	}
	return n, nil
}

type deadRetryCommand struct{ chosen }

func (c deadRetryCommand) Run(ctx context.Context, all *commands, out output) error {
	return all.Dead.with(ctx, func(ctx context.Context, letters *worker.DeadLetters) error {
		n, err := c.each(ctx, letters, letters.Retry)
		fmt.Fprintf(out, "%s queued again\n", letterCount(n))
		return err
	})
}

type deadDropCommand struct {
	PostgresURL string `name:"postgres-url" required:"" help:"The data store, for the final states: postgres://user:password@host/database."`
	chosen
}

func (c deadDropCommand) Run(ctx context.Context, all *commands, out output) error {
	store, err := sink.Open(ctx, sink.Options{URL: c.PostgresURL, MaxConns: 1})
	if err != nil {
		return err
	}
	defer store.Close()
	return all.Dead.with(ctx, func(ctx context.Context, letters *worker.DeadLetters) error {
		n, err := c.each(ctx, letters, func(ctx context.Context, l *worker.DeadLetter) error {
			all, err := letters.Drop(ctx, l, store)
			if err == nil && !all {
				fmt.Fprintf(out, "letter %d can't be read in full: the unreadable items of batch %s get no final state\n",
					l.Sequence, l.Batch)
			}
			return err
		})
		fmt.Fprintf(out, "%s dropped\n", letterCount(n))
		return err
	})
}
