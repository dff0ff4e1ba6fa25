package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"

	"intake/cmd/intake/internal/traffic"
)

type generateCommand struct {
	Output      string  `short:"o" default:"-" help:"File to write: one batch a line. Standard output if -."`
	Seed        int64   `env:"-" default:"1" help:"The same seed and options make the same batches."`
	Batches     int     `default:"100" help:"How many batches."`
	Items       int     `default:"1000" help:"Items a batch."`
	Claims      int     `default:"12" help:"Claims an item."`
	Daily       bool    `help:"Make claims of days instead of months."`
	Currency    string  `env:"-" default:"GBP" help:"Currency of the claims: the one agreed with the partner."`
	Duplicates  float64 `help:"Share of items that are perfect duplicates of another one of their batch, 0 to 1."`
	Conflicts   float64 `help:"Share of items that are in conflict with another one of their batch."`
	Invalid     float64 `help:"Share of items that are invalid, in one of several ways."`
	SavedBefore float64 `help:"Share of items that an earlier batch has with the same data."`
}

func (c generateCommand) Run(ctx context.Context, out output) (err error) {
	if c.Claims == 0 {
		c.Claims = -1
	}
	generator, err := traffic.NewGenerator(traffic.GeneratorOptions{
		Seed: c.Seed, BatchItems: c.Items, Claims: c.Claims, Daily: c.Daily, Currency: c.Currency,
		Duplicates: c.Duplicates, Conflicts: c.Conflicts, Invalid: c.Invalid, SavedBefore: c.SavedBefore,
	})
	if err != nil {
		return err
	}
	var destination io.Writer = out
	if c.Output != "-" {
		file, err := os.Create(c.Output)
		if err != nil {
			return err
		}
		defer func() {
			if closeErr := file.Close(); err == nil {
				err = closeErr
			}
		}()
		destination = file
	}
	buffered := bufio.NewWriterSize(destination, 1<<20)
	var batch []byte
	for range c.Batches {
		if err := ctx.Err(); err != nil {
			return err
		}
		batch = append(generator.AppendBatch(batch[:0]), '\n')
		if _, err := buffered.Write(batch); err != nil {
			return fmt.Errorf("write the batches: %w", err)
		}
	}
	return buffered.Flush()
}
