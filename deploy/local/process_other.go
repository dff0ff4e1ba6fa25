//go:build !linux

package local

import "syscall"

// Elsewhere a server outlives this process if that is killed, until the next
// start in the same folder stops it.
func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}
