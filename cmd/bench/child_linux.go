package main

import "syscall"

// childAttr makes the kernel kill a child when this process ends in any way.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
