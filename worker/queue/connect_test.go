package queue

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"intake/internal/local/localtest"
)

// A connection survives a NATS that refuses its password for a while, as one that is being set up does.
func TestConnect_RefusedForAWhile(t *testing.T) {
	t.Parallel()
	run := func(port int, password string) *server.Server {
		s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, Username: "intake",
			Password: password,
			NoSigs:   true, NoLog: true, StoreDir: filepath.Join(t.TempDir(), "nats")})
		if err != nil {
			t.Fatal(err)
		}
		go s.Start()
		if !s.ReadyForConnections(10 * time.Second) {
			t.Fatal("NATS is not ready")
		}
		return s
	}
	first := run(-1, "right")
	port := first.Addr().(*net.TCPAddr).Port
	nc := connect(t, fmt.Sprintf("nats://intake:right@127.0.0.1:%d", port))
	localtest.Eventually(t, "connected", nc.IsConnected)
	first.Shutdown()
	first.WaitForShutdown()
	second := run(port, "wrong")
	localtest.Eventually(t, "the client was refused more than twice", func() bool {
		varz, err := second.Varz(nil)
		return err == nil && varz.TotalConnections > 3
	})
	second.Shutdown()
	second.WaitForShutdown()
	third := run(port, "right")
	defer func() { third.Shutdown(); third.WaitForShutdown() }()
	localtest.Eventually(t, "connected again", func() bool {
		if nc.IsClosed() {
			t.Fatal("the connection is closed for good")
		}
		return nc.IsConnected()
	})
}
