//go:build !failpoints

package failpoint

// Enabled reports whether the marks do anything.
const Enabled = false

// Hit says that a step was reached.
func Hit(string) {}
