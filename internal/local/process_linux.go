package local

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func setDeathSignal(attr *syscall.SysProcAttr, signal syscall.Signal) { attr.Pdeathsig = signal }

// This file reads /proc, as a small machine or container has no ps.

func childrenOf(pid int) (children []int) {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		if _, parent, ok := processStatus(dir); ok && parent == pid {
			child, _ := strconv.Atoi(filepath.Base(dir))
			children = append(children, child)
		}
	}
	return children
}

// commandLine returns a process's program and arguments, each followed by a space, or ""
// if it has ended.
func commandLine(pid int) string {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	content, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	state, _, ok := processStatus(dir)
	if err != nil || !ok || state == "Z" || state == "X" {
		return ""
	}
	return strings.ReplaceAll(string(content), "\x00", " ") + " "
}

// processStatus returns the state and the parent of the process of a folder of /proc.
func processStatus(dir string) (state string, parent int, ok bool) {
	content, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return "", 0, false
	}
	// 4711 (its name, which may hold anything) S 4710 …
	line := string(content)
	_, err = fmt.Sscan(line[strings.LastIndexByte(line, ')')+1:], &state, &parent)
	return state, parent, err == nil
}
