package front_test

import (
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// While more is queued than can be saved in good time, a batch is refused before it
// is read, and told to come back when that should be over; a dry run isn't.
func TestCreate_Overloaded(t *testing.T) {
	t.Parallel()
	f := newFront(t, nil)
	token := f.token(t)
	create := func(body string, header ...string) *answer {
		a := newAnswer()
		f.ServeHTTP(a, f.create(t, token, strings.NewReader(body), header...))
		return a
	}
	last := 0
	for _, backlog := range []time.Duration{11 * time.Second, 30 * time.Second, time.Hour} {
		f.queue.backlog.Store(int64(backlog))
		a := create("not even JSON")
		a.checkProblem(t, http.StatusServiceUnavailable, "overloaded: more is queued than can be saved in good time")
		seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
		if err != nil || seconds <= last || seconds > 60 {
			t.Errorf("with a backlog of %s, Retry-After is %q, after %d", backlog, a.header.Get("Retry-After"), last)
		}
		last = seconds
	}
	if a := create(items("a"), "Prefer", "handling=validate"); a.status != http.StatusOK {
		t.Errorf("a dry run is answered %d", a.status)
	}
	f.queue.backlog.Store(int64(9 * time.Second))
	if a := create(items("a")); a.status != http.StatusOK {
		t.Errorf("answered %d with a backlog that is allowed", a.status)
	}
	if n := len(f.queue.batches); n != 1 {
		t.Errorf("%d batches were queued", n)
	}
}

// A large body that is refused is not read, and the whole answer comes all the same;
// the connection of a small one is used again.
func TestCreate_OverloadedUnread(t *testing.T) {
	t.Parallel()
	f := newFront(t, nil)
	f.SetUnreadLinger(time.Minute) // then the connection is read
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	counting := &countingListener{Listener: listener}
	f.serve(t, counting, new(net.Dialer).DialContext)
	token := f.token(t)
	f.queue.backlog.Store(int64(time.Minute))
	for range 3 {
		f.do(t, f.create(t, token, strings.NewReader(items("a")))).checkProblem(t, http.StatusServiceUnavailable,
			"more is queued")
	}
	if n := counting.accepted.Load(); n != 1 {
		t.Errorf("small bodies came over %d connections", n)
	}
	before, connections := counting.read.Load(), counting.accepted.Load()
	const requests, size = 5, 200 << 10
	for range requests {
		a := f.do(t, f.create(t, token, strings.NewReader(strings.Repeat(" ", size)+items("a"))))
		a.checkProblem(t, http.StatusServiceUnavailable, "more is queued")
	}
	if n := counting.accepted.Load() - connections; n != requests-1 { // the first one was there
		t.Errorf("%d large bodies came over %d more connections", requests, n)
	}
	if n := counting.read.Load() - before; n > requests*size/10 {
		t.Errorf("%d bytes were read of %d bodies", n, requests)
	}
}

// A countingListener counts connections, and the bytes that are read of them.
type countingListener struct {
	net.Listener
	accepted, read atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.accepted.Add(1)
	return &countingConn{conn, l}, nil
}

type countingConn struct {
	net.Conn
	listener *countingListener
}

func (c *countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.listener.read.Add(int64(n))
	return n, err
}
