package balance_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"intake/cmd/intake/internal/balance"
	"intake/internal/local/localtest"
)

// A front answers each connection with its name and what it was sent, once the
// client has ended.
type front struct {
	net.Listener
	name string
}

func startFront(t *testing.T, address, name string) *front {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	f := &front{listener, name}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				sent, _ := io.ReadAll(conn)
				_, _ = io.WriteString(conn, name+string(sent))
			}()
		}
	}()
	return f
}

// startBalance starts a balancer before two fronts on one port, and returns its
// address and what ends it.
func startBalance(t *testing.T, grace time.Duration) (address string, fronts [2]*front, end func() error) {
	t.Helper()
	fronts[0] = startFront(t, "127.0.0.1:0", "a")
	_, port, _ := net.SplitHostPort(fronts[0].Addr().String())
	fronts[1] = startFront(t, "127.0.0.2:"+port, "b")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() {
		ended <- balance.Serve(ctx, listener, balance.Options{
			Host: "front", Port: port, Grace: grace,
			Lookup: func(context.Context, string) ([]string, error) { return []string{"127.0.0.1", "127.0.0.2"}, nil },
		})
	}()
	t.Cleanup(cancel)
	return listener.Addr().String(), fronts, func() error { cancel(); return <-ended }
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// answer sends a text, ends, and returns what is answered.
func answer(t *testing.T, conn *net.TCPConn, text string) string {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

// Connections go to the fronts in turn; all go to the other one when one is not
// there, and are closed when none is.
func TestServe(t *testing.T) {
	t.Parallel()
	address, fronts, end := startBalance(t, time.Second)
	count := func() map[string]int {
		t.Helper()
		counts := make(map[string]int)
		for range 10 {
			counts[answer(t, dial(t, address), "!")]++
		}
		return counts
	}
	if counts := count(); counts["a!"] != 5 || counts["b!"] != 5 {
		t.Errorf("of 10 connections: %v", counts)
	}
	fronts[0].Close()
	if counts := count(); counts["b!"] != 10 {
		t.Errorf("of 10 connections with one front: %v", counts)
	}
	fronts[1].Close()
	conn := dial(t, address)
	if got, err := io.ReadAll(conn); len(got) > 0 {
		t.Errorf("without a front it answers %q (%v)", got, err)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}

// When it is to end, it takes no more connections, and those that are open go on.
func TestServe_Grace(t *testing.T) {
	t.Parallel()
	address, _, end := startBalance(t, time.Minute)
	conn := dial(t, address)
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatal(err)
	}
	answer(t, dial(t, address), "") // so the first one is accepted
	ended := make(chan error, 1)
	go func() { ended <- end() }()
	localtest.Eventually(t, "no more connections are taken", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	if got := answer(t, conn, "y"); got != "axy" && got != "bxy" {
		t.Errorf("the open connection is answered %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// When the grace is over, what is still open is broken off.
func TestServe_GraceOver(t *testing.T) {
	t.Parallel()
	address, _, end := startBalance(t, time.Millisecond)
	conn := dial(t, address)
	answer(t, dial(t, address), "")
	if err := end(); err != nil {
		t.Error(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
}
