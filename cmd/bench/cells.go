package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A shape is the size of the batches of a cell.
type shape struct {
	Items  int  `json:"items"`
	Claims int  `json:"claims"`
	Daily  bool `json:"daily,omitempty"` // claims of days instead of months
}

// A cell is one measurement: batches of a shape, the number of concurrent ones, and how
// they are.
type cell struct {
	shape
	Concurrency int `json:"concurrency"`
	// Saved sends only items that were saved before.
	Saved bool `json:"saved,omitempty"`
	// Mixed makes 2 % of the items duplicates, 2 % conflicts and 2 % invalid, and 10 %
	// such that were saved before.
	Mixed bool `json:"mixed,omitempty"`
	// Echo has the items in the answers.
	Echo bool `json:"echo,omitempty"`
	// Async does not wait until batches are saved. The peers can't do that.
	Async bool `json:"async,omitempty"`
}

// thousand is the shape with most of the targets.
var thousand = shape{1_000, 12, false}

// String returns the name of a cell as [parseCell] reads it: 100x12@16+mixed.
func (c cell) String() string {
	name := fmt.Sprintf("%dx%d@%d", c.Items, c.Claims, c.Concurrency)
	for _, kind := range c.kinds() {
		if *kind.set {
			name += "+" + kind.name
		}
	}
	return name
}

type kind struct {
	name string
	set  *bool
}

func (c *cell) kinds() []kind {
	return []kind{{"daily", &c.Daily}, {"saved", &c.Saved}, {"mixed", &c.Mixed}, {"echo", &c.Echo}, {"async", &c.Async}}
}

func parseCell(name string) (c cell, err error) {
	words := strings.Split(name, "+")
	_, err = fmt.Sscanf(words[0], "%dx%d@%d", &c.Items, &c.Claims, &c.Concurrency)
	if err != nil || c.String() != words[0] {
		return c, fmt.Errorf("cell %q: want ITEMSxCLAIMS@CONCURRENCY, as in 100x12@16", name)
	}
	for _, word := range words[1:] {
		known := c.kinds()
		at := slices.IndexFunc(known, func(k kind) bool { return k.name == word })
		if at < 0 {
			return c, fmt.Errorf("cell %q: no kind %q: want daily, saved, mixed, echo or async", name, word)
		}
		*known[at].set = true
	}
	if c.Items < 1 || c.Claims < 1 || c.Concurrency < 1 {
		return c, fmt.Errorf("cell %q: items, claims and concurrency are at least 1", name)
	}
	return c, nil
}

// parseCells reads the names of cells with commas between them.
func parseCells(names string) (cells []cell, err error) {
	for name := range strings.SplitSeq(names, ",") {
		c, err := parseCell(strings.TrimSpace(name))
		if err != nil {
			return nil, err
		}
		cells = append(cells, c)
	}
	return cells, nil
}

// batch returns the size of a cell's batches as the tables print it.
func (s shape) batch() string { return fmt.Sprintf("%d × %d", s.Items, s.Claims) }

var kindWords = map[string]string{
	"daily": "days", "saved": "all saved before", "mixed": "mixed", "echo": "echo", "async": "nobody waits",
}

// what returns how a cell's items are, as the tables print it.
func (c cell) what() string {
	var words []string
	for _, kind := range c.kinds() {
		if *kind.set {
			words = append(words, kindWords[kind.name])
		}
	}
	if len(words) == 0 {
		return "all new"
	}
	return strings.Join(words, ", ")
}

// file returns a file of batches for a cell.
func (b *bench) file(ctx context.Context, c cell) (string, error) {
	// About 24,000 items of 12 claims, or 6,000 that have to be saved before, but enough
	// batches for the concurrency.
	claims := 24_000 * 12
	if c.Saved {
		claims /= 4
	}
	batches := max(claims/(c.Items*c.Claims), 2*c.Concurrency)
	c.Concurrency, c.Echo, c.Async = batches, false, false // cells that differ in these only share a file
	file := filepath.Join(b.dir, c.String()+".ndjson")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	args := []string{
		"generate", "--output=" + file, "--batches=" + strconv.Itoa(batches),
		"--items=" + strconv.Itoa(c.Items), "--claims=" + strconv.Itoa(c.Claims),
	}
	if c.Daily {
		args = append(args, "--daily")
	}
	if c.Mixed {
		args = append(args, "--duplicates=0.02", "--conflicts=0.02", "--invalid=0.02", "--saved-before=0.1")
	}
	if output, err := exec.CommandContext(ctx, b.program, args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("intake generate: %w\n%s", err, output)
	}
	return file, nil
}
