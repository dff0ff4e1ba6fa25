package local

import (
	"os"
	"os/exec"
	"syscall"
)

// A Program is a program that ends when this process does.
type Program struct{ process *process }

// StartProgram starts a program that logs to a file.
func StartProgram(cmd *exec.Cmd, logFile string) (*Program, error) {
	p, err := startProcess(cmd, logFile, syscall.SIGKILL)
	if err != nil {
		return nil, err
	}
	return &Program{p}, nil
}

// Done is closed when the program has ended.
func (p *Program) Done() <-chan struct{} { return p.process.ended }

// Err returns the error that the program has ended with, or nil if it exited with 0. Call it
// once Done is closed.
func (p *Program) Err() error { return p.process.err }

// Signal sends it a signal.
func (p *Program) Signal(signal os.Signal) error { return p.process.cmd.Process.Signal(signal) }

// Kill ends it as a crash does.
func (p *Program) Kill() { p.process.kill() }
