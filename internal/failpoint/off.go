//go:build !failpoints

package failpoint

// Enabled reports whether the marks do anything.
const Enabled = false

// Hit marks a step.
func Hit(string) {}
