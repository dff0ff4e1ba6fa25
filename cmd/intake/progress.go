package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"
)

// A progress shows on standard error how far a command is: one line that is
// rewritten on a terminal, else a line every 5 s. It is safe for concurrent use.
type progress struct {
	out      io.Writer
	terminal bool
	text     func() string
	ended    chan struct{}
	stopped  sync.WaitGroup

	mu   sync.Mutex
	said map[string]time.Time // reasons of say, by when they were printed last
}

// Between two lines: on a terminal, and elsewhere.
const (
	redrawEvery = 200 * time.Millisecond
	printEvery  = 5 * time.Second
)

// showProgress shows what text returns, which must be safe for concurrent use,
// until stop is called.
func showProgress(text func() string) *progress {
	return newProgress(os.Stderr, term.IsTerminal(int(os.Stderr.Fd())), text)
}

func newProgress(out io.Writer, terminal bool, text func() string) *progress {
	p := &progress{out: out, terminal: terminal, text: text, ended: make(chan struct{}),
		said: make(map[string]time.Time)}
	every := printEvery
	if terminal {
		every = redrawEvery
	}
	p.stopped.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				p.show()
			case <-p.ended:
				return
			}
		}
	})
	return p
}

const clearLine = "\r\x1b[K"

func (p *progress) show() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		fmt.Fprint(p.out, clearLine, p.text())
	} else {
		fmt.Fprintln(p.out, p.text())
	}
}

// say prints a line, unless one for the same reason was printed in the last 5 s.
func (p *progress) say(reason, line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.said[reason]) < printEvery {
		return
	}
	p.said[reason] = time.Now()
	if p.terminal {
		fmt.Fprint(p.out, clearLine)
	}
	fmt.Fprintln(p.out, line)
}

// stop ends the showing. On a terminal it leaves no trace. It may be called again.
func (p *progress) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.ended:
		return
	default:
		close(p.ended)
	}
	p.mu.Unlock()
	p.stopped.Wait()
	p.mu.Lock()
	if p.terminal {
		fmt.Fprint(p.out, clearLine)
	}
}

// showSteps shows how many of total steps are done; 0 if the total is not known.
func showSteps(what string, total int64) (step func(n int64), stop func()) {
	var done atomic.Int64
	p := showProgress(func() string {
		if total > 0 {
			return fmt.Sprintf("%d of about %d %s", done.Load(), total, what)
		}
		return fmt.Sprintf("%d %s", done.Load(), what)
	})
	return func(n int64) { done.Add(n) }, p.stop
}
