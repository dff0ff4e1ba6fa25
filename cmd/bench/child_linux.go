package main

import "syscall"

// childAttr has the kernel end a child when this process is gone, however it went.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
