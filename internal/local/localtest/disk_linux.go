package localtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// A Disk is a small file system for the test alone, which may fill it.
type Disk struct{ Dir string }

// SmallDisk mounts a file system of a number of bytes that only the test sees: in a
// mount namespace of a process that ends with the test, and takes the file system with
// it.
func SmallDisk(t testing.TB, bytes int) *Disk {
	t.Helper()
	dir := Dir(t)
	script := fmt.Sprintf("mount -t tmpfs -o size=%d,mode=755 tmpfs '%s' && echo mounted && exec cat", bytes, dir)
	holder := exec.Command("unshare", "--mount", "--map-root-user", "sh", "-c", script)
	holder.Stderr = t.Output()
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = holder.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "mounted\n" {
		t.Fatalf("cannot mount a file system in a namespace of its own (%v): that takes unshare, and root or user namespaces", err)
	}
	return &Disk{Dir: filepath.Join(fmt.Sprintf("/proc/%d/root", holder.Process.Pid), dir)}
}

// Fill writes until no space is left.
func (d *Disk) Fill(t testing.TB) {
	t.Helper()
	file, err := os.Create(d.ballast())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := io.Copy(file, zeros{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill a disk: %v", err)
	}
}

// MakeRoom frees what Fill has taken.
func (d *Disk) MakeRoom(t testing.TB) {
	t.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		t.Fatal(err)
	}
}

func (d *Disk) ballast() string { return filepath.Join(d.Dir, "ballast") }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
