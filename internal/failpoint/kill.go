//go:build failpoints

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Env names the step, and which time it is to be reached, as in worker/told:3.
const Env = "INTAKE_FAILPOINT"

var (
	step, after = parse(os.Getenv(Env))
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

// Hit kills the process if this is the step, for the time, that it was told.
func Hit(name string) {
	if name == step && times.Add(1) == after {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until it arrives
	}
}
