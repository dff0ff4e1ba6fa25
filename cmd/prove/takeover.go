package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"intake/internal/failpoint"
	"intake/internal/sleep"
)

// withdrawingFor is how long a withdrawal is paused: shorter than the 5 s after which its front gives
// it up, and longer than what is left of most reservations, which last 5 s and are renewed every 1.25 s.
const withdrawingFor = 4500 * time.Millisecond

// takeoverFaults pause a request between two steps for longer than its reservation of an
// Idempotency-Key lasts, so that a repeat over the other front takes over.
func (n *nemesis) takeoverFaults() []fault {
	first, second := n.stack.part("front-1"), n.stack.part("front-2")
	reserved := []*stopping{{stack: n.stack, part: first, step: "front/reserved"}, {stack: n.stack, part: second,
		step: "front/gone-on"}}
	withdrawing := []*stopping{{stack: n.stack, part: first, step: "sink/withdrawing"}}
	return []fault{
		// The front that takes over is paused when it has saved the batch, and resumes last.
		{"pause", "front-1 with a reservation, front-2 after it took over", time.Second,
			func(ctx context.Context) error { return n.stack.stopAll(ctx, reserved, nil) },
			func(ctx context.Context) error { return n.stack.goOn(ctx, reserved) }, false},
		{"pause", "front-1 in a withdrawal", 300 * time.Millisecond,
			func(ctx context.Context) error {
				if err := n.stack.stopAll(ctx, withdrawing, n.stack.muteQueue); err != nil {
					return err
				}
				sleep.For(ctx, withdrawingFor)
				return nil
			},
			func(ctx context.Context) error {
				err := n.stack.goOn(ctx, withdrawing)
				n.stack.unmuteQueue(ctx)
				return err
			}, false},
	}
}

// A stopping is a front that will pause a request at a step.
type stopping struct {
	stack *stack
	part  *part
	step  string
}

// file returns the name of a file that exists while the request is paused.
func (s *stopping) file() string { return filepath.Join(s.stack.opts.Dir, s.part.name+".stopped") }

func (s *stopping) is() bool {
	_, err := os.Stat(s.file())
	return err == nil
}

// stopAll restarts fronts, calls ready when all are ready, and waits until each has
// paused a request at its step.
func (s *stack) stopAll(ctx context.Context, fronts []*stopping, ready func() error) error {
	s.takingOver.Store(true)
	for _, front := range fronts {
		if err := front.restart(failpoint.Env+"="+front.step, failpoint.EnvStop+"="+front.file()); err != nil {
			return err
		}
	}
	if ready != nil {
		if err := s.waitReady(ctx); err != nil {
			return err
		}
		if err := ready(); err != nil {
			return err
		}
	}
	for _, front := range fronts {
		for !front.is() {
			if !sleep.For(ctx, 20*time.Millisecond) {
				return fmt.Errorf("%s does not reach %s: %w", front.part.name, front.step, ctx.Err())
			}
		}
	}
	return nil
}

// goOn resumes the fronts' requests, one 2 s after the other. It restarts a front that
// has paused none, so that none will be.
func (s *stack) goOn(ctx context.Context, fronts []*stopping) error {
	s.takingOver.Store(false)
	for i, front := range fronts {
		if i > 0 {
			sleep.For(ctx, 2*time.Second)
		}
		if !front.is() {
			if err := front.restart(); err != nil {
				return err
			}
		}
		if err := os.Remove(front.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		front.part.env = nil
	}
	return nil
}

// restart kills a front and starts it with an addition to its environment.
func (s *stopping) restart(env ...string) error {
	if err := s.part.kill(); err != nil {
		return err
	}
	_ = os.Remove(s.file())
	s.part.env = env
	return s.part.begin()
}

func (s *stack) part(name string) *part {
	for _, p := range s.parts {
		if p.name == name {
			return p
		}
	}
	return nil
}

const unheard = "unheard"

// muteQueue keeps messages of front-1 from the queue. The front can't know whether they
// are queued, and withdraws them.
func (s *stack) muteQueue() error {
	for _, l := range s.links {
		if !strings.HasPrefix(l.name, "front-1 to nats") {
			continue
		}
		toxic := fmt.Sprintf(`{"name":%q,"type":"timeout","stream":"upstream","attributes":{"timeout":0}}`, unheard)
		if _, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
			return err
		}
	}
	return nil
}

func (s *stack) unmuteQueue(ctx context.Context) {
	for _, l := range s.links {
		_ = l.proxy.Toxics.RemoveToxic(ctx, unheard)
	}
}
