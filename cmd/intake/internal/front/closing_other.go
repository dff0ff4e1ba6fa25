//go:build !linux

package front

import (
	"errors"
	"net"
)

// refuseConnections is for Linux only.
func refuseConnections(net.Listener) error { return errors.ErrUnsupported }

func anyWaiting(net.Listener) bool { return false }
