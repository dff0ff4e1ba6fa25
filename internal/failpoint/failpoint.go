// Package failpoint marks steps between two effects, such as the commit and the ack, at which a process
// may die or stall. In a build with the tag failpoints, which is for tests only, the process is killed
// or a goroutine stopped at the step that the environment names. In other builds the marks do nothing.
package failpoint

// Env names the step, and which time it is reached, as in worker/told:3.
const Env = "INTAKE_FAILPOINT"

// EnvStop names a file. If it is set, the goroutine that reaches the step creates the file and waits
// until it is removed, instead of the process being killed.
const EnvStop = "INTAKE_FAILPOINT_STOP"
