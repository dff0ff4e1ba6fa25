//go:build failpoints

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Enabled reports whether the marks do anything.
const Enabled = true

var (
	step, after = parse(os.Getenv(Env))
	stop        = os.Getenv(EnvStop)
	times       atomic.Int64
)

func parse(text string) (string, int64) {
	name, number, _ := strings.Cut(text, ":")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return name, 1
	}
	return name, n
}

// Hit kills the process, or stops the goroutine, if this is the step, and the time, that the environment
// names.
func Hit(name string) {
	if name != step || times.Add(1) != after {
		return
	}
	if stop != "" {
		pause()
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // until the signal arrives
}

// pause creates the file and waits until it is removed.
func pause() {
	_ = os.WriteFile(stop, nil, 0o600)
	for {
		if _, err := os.Stat(stop); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
