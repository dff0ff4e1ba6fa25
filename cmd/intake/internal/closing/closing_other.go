//go:build !linux

package closing

import (
	"errors"
	"net"
)

func refuse(net.Listener) error { return errors.ErrUnsupported }

func anyWaiting(net.Listener) bool { return false }
