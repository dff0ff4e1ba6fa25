// Package failpoint marks the steps between two effects at which a process may
// die, or a goroutine be stopped for a while: after a publish and before its answer, between
// the commit and the ack. Built with the tag failpoints, which is for tests only, a
// process does so at the step that its environment names; without, the marks are
// nothing.
package failpoint

// Env names the step, and which time it is to be reached, as in worker/told:3.
const Env = "INTAKE_FAILPOINT"

// EnvStop names a file. With it, the goroutine that reaches the step makes the file and
// stops there until it is removed, and the process lives.
const EnvStop = "INTAKE_FAILPOINT_STOP"
