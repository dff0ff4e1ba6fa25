package main

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A syncDelay delays each fsync and fdatasync of the processes that this one starts, those
// of Postgres and NATS among them, like a disk that is slower. A sync still reaches the
// real disk afterwards.
type syncDelay struct{ nanoseconds atomic.Int64 }

func (d *syncDelay) set(delay time.Duration) { d.nanoseconds.Store(int64(delay)) }

// newSyncDelay installs the filter, which cannot be removed from this process again. Even
// without a delay it costs a sync about 20 µs.
//
// It is a seccomp filter whose notifications this process answers; see
// seccomp_unotify(2). Unlike a preloaded library, it also reaches programs that make
// system calls without libc, such as NATS.
func newSyncDelay() (*syncDelay, error) {
	const systemCall = 0 // the offset of its number in struct seccomp_data
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: systemCall},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: unix.SYS_FSYNC},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_FDATASYNC},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("delay syncs: %w", err)
	}
	// For all threads, any of which may start a child. A signal must not make a program
	// sync again while it waits.
	const flags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH |
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP,
		unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return nil, fmt.Errorf("delay syncs: seccomp needs Linux 5.19 and must not be blocked by a container: %w",
			errno)
	}
	d := new(syncDelay)
	go d.serve(listener)
	return d, nil
}

// seccompNotif is struct seccomp_notif of linux/seccomp.h.
type seccompNotif struct {
	id         uint64
	pid, flags uint32
	data       [64]byte
}

// seccompNotifResp is struct seccomp_notif_resp.
type seccompNotifResp struct {
	id    uint64
	value int64
	error int32
	flags uint32
}

func (d *syncDelay) serve(listener uintptr) {
	for {
		var notif seccompNotif
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, listener, unix.SECCOMP_IOCTL_NOTIF_RECV,
			uintptr(unsafe.Pointer(&notif)))
		if errors.Is(errno, unix.EINTR) || errors.Is(errno, unix.ENOENT) { // ENOENT: it was killed
			continue
		}
		if errno != 0 {
			panic(fmt.Sprintf("delay syncs: %s", errno)) // nobody can sync any more
		}
		go d.release(listener, notif.id)
	}
}

// release lets a process make its system call after the delay.
func (d *syncDelay) release(listener uintptr, id uint64) {
	if delay := d.nanoseconds.Load(); delay > 0 {
		// time.Sleep is up to a millisecond late.
		left := unix.NsecToTimespec(delay)
		for errors.Is(unix.Nanosleep(&left, &left), unix.EINTR) {
		}
	}
	resp := seccompNotifResp{id: id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	// It fails if the process was killed meanwhile.
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, listener, unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&resp)))
}
