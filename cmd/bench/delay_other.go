//go:build !linux

package main

import (
	"errors"
	"time"
)

type syncDelay struct{}

func (d *syncDelay) set(time.Duration) {}

func newSyncDelay() (*syncDelay, error) {
	return nil, errors.New("delay syncs: it needs seccomp, which only Linux has")
}
