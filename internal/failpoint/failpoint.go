//go:build !failpoints

// Package failpoint marks the steps between two effects at which a process may
// die: after a publish and before its answer, between the commit and the ack.
// Built with the tag failpoints, which is for tests only, a process can be told
// to die there; without, the marks are nothing.
package failpoint

// Hit says that a step was reached.
func Hit(string) {}
