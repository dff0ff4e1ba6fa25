package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
)

// A result holds all rounds of a cell, in each of which all systems were measured one
// after the other, so that other load of the machine affects all alike.
type result struct {
	Cell   cell                      `json:"cell"`
	Rounds []map[string]*measurement `json:"rounds"` // by system
}

// measureRounds measures the systems in a cell. Every other round has them in reverse.
func (b *bench) measureRounds(ctx context.Context, c cell, rounds int, systems ...*system) (*result, error) {
	r := &result{Cell: c}
	systems = slices.Clone(systems)
	for n := range rounds {
		round := make(map[string]*measurement)
		var line strings.Builder
		for _, s := range systems {
			m, err := b.measure(ctx, s, c)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", c, s.name, err)
			}
			round[s.name] = m
			fmt.Fprintf(&line, "  %s %.0f/s, p50 %.1f ms, %.1f µs", s.name, m.Items, m.P50, m.cpu())
		}
		fmt.Fprintf(os.Stderr, "%s %d/%d:%s\n", c, n+1, rounds, &line)
		r.Rounds = append(r.Rounds, round)
		slices.Reverse(systems)
	}
	return r, nil
}

// warmUp sends to systems that have just started, until their connections are open and
// their heaps have grown.
func (b *bench) warmUp(ctx context.Context, systems ...*system) error {
	c := cell{shape: shape{100, 12, false}, Concurrency: 16}
	file, err := b.file(ctx, c)
	if err != nil {
		return err
	}
	for _, s := range systems {
		if _, err := b.replay(ctx, s, c, file, "--duration=1s", "--fresh-keys"); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// A spread is a median and the range that it is of.
type spread struct{ Median, Least, Most float64 }

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	slices.Sort(values)
	middle := values[len(values)/2]
	if len(values)%2 == 0 {
		middle = (values[len(values)/2-1] + middle) / 2
	}
	return spread{middle, values[0], values[len(values)-1]}
}

// of returns a figure of a system over all rounds.
func (r *result) of(system string, figure func(*measurement) float64) spread {
	var values []float64
	for _, round := range r.Rounds {
		if m := round[system]; m != nil {
			values = append(values, figure(m))
		}
	}
	return spreadOf(values)
}

// ratio returns a figure of a system in proportion to another one's. Each ratio is of one
// round.
func (r *result) ratio(system, to string, figure func(*measurement) float64) spread {
	var values []float64
	for _, round := range r.Rounds {
		a, b := round[system], round[to]
		if a != nil && b != nil && figure(b) != 0 {
			values = append(values, figure(a)/figure(b))
		}
	}
	return spreadOf(values)
}

func (s spread) ratio() string {
	if s == (spread{}) {
		return ""
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", s.Median, s.Least, s.Most)
}

// The figures of a measurement that most tables show.
func itemsOf(m *measurement) float64  { return m.Items }
func p50Of(m *measurement) float64    { return m.P50 }
func p99Of(m *measurement) float64    { return m.P99 }
func cpuOfAll(m *measurement) float64 { return m.cpu() }
