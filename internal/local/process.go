// Package local starts private servers on this machine: Postgres and Redis as child
// processes, NATS within this process. They listen on 127.0.0.1 only, on free ports, and
// require a generated password. Each keeps its data in one folder, from which the next
// start continues.
//
// A server runs until it is stopped. If this process dies, the server ends too: on Linux
// immediately, elsewhere at the next start in the same folder.
package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A process is a child of this one.
type process struct {
	cmd     *exec.Cmd
	logFile string
	ended   chan struct{} // closed when it has ended
	err     error         // how it ended; read it when ended is closed
}

// startProcess starts a program that logs to a file. The program has its own process
// group, so that Ctrl-C on the terminal does not reach it and this process can stop it in
// order.
func startProcess(cmd *exec.Cmd, logFile string, deathSignal syscall.Signal) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	setDeathSignal(cmd.SysProcAttr, deathSignal)
	p := &process{cmd: cmd, logFile: logFile, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends the death signal when the thread that started the child ends,
		// so the thread must live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.ended)
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		p.err = cmd.Wait()
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// waitReady tries to reach the server until it succeeds, the server ends, or ctx does.
func (p *process) waitReady(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended (%w); its log %s ends with:\n%s", p.cmd.Path, cmpErr(p.err), p.logFile,
				tail(p.logFile))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready (%w); its log %s ends with:\n%s", p.cmd.Path, err, p.logFile,
				tail(p.logFile))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func cmpErr(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// stop asks the process to end, and kills it when ctx ends.
func (p *process) stop(ctx context.Context, signal syscall.Signal) error {
	_ = p.cmd.Process.Signal(signal) // it may have ended
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
		p.kill()
		return fmt.Errorf("%s did not stop in time and was killed: %w", p.cmd.Path, ctx.Err())
	}
}

// signal sends a signal to the process and its children.
func (p *process) signal(signal syscall.Signal) {
	select {
	case <-p.ended: // its number may be another process's
		return
	default:
	}
	pid := p.cmd.Process.Pid
	_ = syscall.Kill(pid, signal)
	for _, child := range childrenOf(pid) {
		_ = syscall.Kill(child, signal)
	}
}

// kill ends the process and all of its children. Those of Postgres have their own process
// groups, and a busy one would not notice that its parent is gone: the next Postgres would
// refuse to start beside it.
func (p *process) kill() {
	select {
	case <-p.ended: // its number may be another process's
		return
	default:
	}
	pid := p.cmd.Process.Pid
	_ = syscall.Kill(pid, syscall.SIGSTOP) // it starts no more children
	children := childrenOf(pid)
	for _, child := range children {
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	<-p.ended
	for _, child := range children {
		_ = waitGone(child, p.cmd.Path) // if not, the next start says so
	}
}

func tail(file string) string {
	content, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(content), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
}

// FreePort returns an unused port of 127.0.0.1: wanted if that is not 0 and free, or one
// below the range for outgoing connections, any of which could take the port while its
// server is down.
func FreePort(wanted int) (port int, err error) {
	for range 100 {
		port = wanted
		if port == 0 {
			port = 15_000 + rand.IntN(15_000)
		}
		wanted = 0
		var listener net.Listener
		if listener, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, listener.Close()
		}
	}
	return 0, fmt.Errorf("no free port on 127.0.0.1: %w", err)
}

// stopLeftover ends a server that an earlier process left behind. It checks that the
// process pid runs the program with one of the arguments, as pid may belong to another
// server after a restart of the machine or the container.
func stopLeftover(pid int, signal syscall.Signal, program string, arguments ...string) error {
	if pid <= 1 {
		return nil
	}
	line := commandLine(pid)
	serves := func(argument string) bool { return strings.Contains(line, " "+argument+" ") }
	if !strings.Contains(line, program) || !slices.ContainsFunc(arguments, serves) {
		return nil
	}
	_ = syscall.Kill(pid, signal)
	return waitGone(pid, program)
}

func waitGone(pid int, program string) error {
	for deadline := time.Now().Add(20 * time.Second); commandLine(pid) != ""; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s, process %d, was left behind and does not stop: kill it", program, pid)
		}
	}
	return nil
}
