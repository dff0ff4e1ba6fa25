package dedupe_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"

	"intake/internal/local/localtest"
)

// A Redis that hangs, and then goes on.
func TestSeenSet_Paused(t *testing.T) {
	t.Parallel()
	s := newSeenSet(t, newClient(t, localtest.Redis(t)), 0)
	s.waitAnswered(t)
	s.mark(t, "one", 1, key("A", 1))
	info, err := s.client.Info(t.Context(), "server").Result()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(regexp.MustCompile(`process_id:(\d+)`).FindStringSubmatch(info)[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT)
	checkSlow(t, s)
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.waitAnswered(t)
	// Answers that came too late must not be taken for others.
	localtest.Eventually(t, "the key is seen again", func() bool {
		seen := s.ask(t, 1, key("B", 1), key("A", 1))
		if seen[0] != no || seen[1] == different {
			t.Fatalf("seen %v", seen)
		}
		return seen[1] == same
	})
}

// A cluster of two: what is marked and asked finds its way to the node that has it.
func TestSeenSet_Cluster(t *testing.T) {
	t.Parallel()
	low, high := startNode(t), startNode(t)
	low.join(t, 0, 8191, high)
	high.join(t, 8192, 16383, low)
	for _, n := range []*node{low, high} {
		localtest.Eventually(t, "the cluster is complete", func() bool {
			info, err := n.client.ClusterInfo(t.Context()).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") &&
				strings.Contains(info, "cluster_slots_ok:16384")
		})
	}
	// go-redis tries a server that is away once a second, and learns no sooner
	// that its client is closed.
	t.Cleanup(func() {
		localtest.Eventually(t, "go-redis has ended", func() bool { return !strings.Contains(stacks(), "tryDial") })
	})
	s := newSeenSet(t, newClient(t, low.url()+","+high.url()), patient)
	s.waitAnswered(t)
	ids := make([]string, 1_000)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	s.mark(t, "one", 1, clients(ids[:500]...)...)
	for i, seen := range s.ask(t, 1, clients(ids...)...) {
		if (i < 500) != (seen == same) {
			t.Fatalf("client %d: %v", i, seen)
		}
	}
	for _, n := range []*node{low, high} {
		if keys, err := n.client.DBSize(t.Context()).Result(); err != nil || keys < 200 {
			t.Errorf("a node has %d of about 500 buckets (%v)", keys, err)
		}
	}
	// A cluster without one of its nodes is unavailable.
	low.stop()
	localtest.Eventually(t, "the breaker opens", func() bool {
		for _, seen := range s.ask(t, 1, clients(ids...)...) {
			if seen == different {
				t.Fatal("seen different")
			}
		}
		return s.logs.FilterMessageSnippet("redis unavailable").Len() == 1
	})
}

// A cluster of one node, which is given by two addresses.
func TestSeenSet_ClusterOfOne(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	if err := n.client.Do(t.Context(), "cluster", "addslotsrange", 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "the cluster is complete", func() bool {
		info, err := n.client.ClusterInfo(t.Context()).Result()
		return err == nil && strings.Contains(info, "cluster_state:ok")
	})
	s := newSeenSet(t, newClient(t, n.url()+",redis://localhost:"+strconv.Itoa(n.port)), patient)
	s.waitAnswered(t)
	s.mark(t, "one", 1, clients("A", "B")...)
	want(t, s.ask(t, 1, key("A", 1), key("B", 2), key("C", 1)), same, different, no)
}

func stacks() string {
	b := make([]byte, 4<<20)
	return string(b[:runtime.Stack(b, true)])
}

// A node is a private Redis of a cluster, which the local stack does not have.
type node struct {
	port, bus int
	client    *redis.Client
	stop      func()
}

func startNode(t *testing.T) *node {
	t.Helper()
	n := &node{port: freePort(t), bus: freePort(t)}
	// The shell ends Redis when its input ends: when this process is gone, however.
	cmd := exec.Command("sh", "-c", `redis-server "$@" & read -r _; kill -9 $!; wait`, "sh",
		"--port", strconv.Itoa(n.port), "--cluster-port", strconv.Itoa(n.bus), "--bind", "127.0.0.1", "--dir",
		t.TempDir(),
		"--cluster-enabled", "yes", "--save", "", "--appendonly", "no")
	cmd.Stderr = os.Stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	n.stop = func() {
		if !stopped {
			stopped = true
			input.Close()
			_ = cmd.Wait() // it was killed
		}
	}
	t.Cleanup(n.stop)
	n.client = redis.NewClient(&redis.Options{Addr: n.addr()})
	t.Cleanup(func() { n.client.Close() })
	localtest.Eventually(t, "the node answers", func() bool { return n.client.Ping(t.Context()).Err() == nil })
	return n
}

func (n *node) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(n.port)) }
func (n *node) url() string  { return "redis://" + n.addr() }

// join returns the node its part of the slots, and lets it know the other one.
func (n *node) join(t *testing.T, first, last int, other *node) {
	t.Helper()
	if err := n.client.Do(t.Context(), "cluster", "addslotsrange", first, last).Err(); err != nil {
		t.Fatal(err)
	}
	if err := n.client.Do(t.Context(), "cluster", "meet", "127.0.0.1", other.port, other.bus).Err(); err != nil {
		t.Fatal(err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}
