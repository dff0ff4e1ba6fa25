package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"testing"
	"time"

	"intake/internal/local/localtest"
)

// Ten thousand connections that never send a whole request take little memory,
// keep nobody waiting, and are hung up on.
func TestSlowConnections(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	address, admin := freeAddress(t), freeAddress(t)
	cmd := command(t, "front", "--listen="+address, "--admin-listen="+admin, "--public-url=http://intake.test",
		"--max-connections-per-address=5000",
		"--postgres-url="+s.flags.PostgresURL, "--nats-url="+s.flags.NATSURL, "--redis-url="+s.flags.RedisURL,
		"--allow-unsafe")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	localtest.Eventually(t, "the front is ready", func() bool {
		response, err := http.Get("http://" + admin + "/readyz")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	const connections = 10_000
	conns := make([]net.Conn, 0, connections)
	defer func() {
		for _, conn := range conns {
			conn.Close()
		}
	}()
	dialer := net.Dialer{Timeout: 10 * time.Second}
	for n := range connections {
		// There are only so many ports from one address.
		dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+n/5_000), 1)}
		conn, err := dialer.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatalf("connection %d: %v", n, err)
		}
		conns = append(conns, conn)
		if _, err := io.WriteString(conn, "POST /api/v1/clients HTTP/1.1\r\nHost: intake.test\r\nX: "); err != nil {
			t.Fatal(err)
		}
	}
	client := credentials("http://"+address, "acme", s.secret).Client(t.Context())
	for n := range 20 {
		var a answer
		if status := call(t.Context(), t, client, http.MethodPost, "http://"+address+"/api/v1/clients",
			"["+itemOf(fmt.Sprint(n), 1)+"]", &a); status != http.StatusOK {
			t.Errorf("another one is answered %d", status)
		}
	}
	if runtime.GOOS == "linux" {
		checkPeak(t, cmd.Process.Pid)
	}
	for _, conn := range conns[:100] {
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Fatalf("a connection stays open: %v", err)
		}
	}
}

// checkPeak bounds the memory that a process has taken.
func checkPeak(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	peak, err := strconv.Atoi(regexp.MustCompile(`VmHWM:\s+(\d+)`).FindStringSubmatch(string(status))[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("at most %d MiB", peak>>10)
	if peak > 400<<10 && !raceDetector { // which takes several times as much
		t.Errorf("the front has taken %d MiB", peak>>10)
	}
}
