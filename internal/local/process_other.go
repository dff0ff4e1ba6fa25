//go:build !linux

package local

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// Without a death signal, a server outlives this process if that is killed, until the next
// start in the same folder stops it.
func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}

func childrenOf(pid int) (children []int) {
	output, err := exec.Command("ps", "-A", "-o", "pid=", "-o", "ppid=").Output()
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(output)) {
		var child, parent int
		if _, err := fmt.Sscan(line, &child, &parent); err == nil && parent == pid {
			children = append(children, child)
		}
	}
	return children
}

// commandLine returns a process's program and arguments, each followed by a space, or ""
// if it has ended.
func commandLine(pid int) string {
	output, err := exec.Command("ps", "-ww", "-o", "stat=", "-o", "args=", "-p", strconv.Itoa(pid)).Output()
	state, line, _ := strings.Cut(strings.TrimSpace(string(output)), " ")
	if err != nil || strings.HasPrefix(state, "Z") {
		return ""
	}
	return line + " "
}
