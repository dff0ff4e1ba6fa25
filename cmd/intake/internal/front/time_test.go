package front_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"intake"
	"intake/internal/local/localtest"
	"intake/worker/queue"
)

// These tests run on the clock of a synctest bubble, over connections in memory:
// minutes pass at once.

// A pipeListener accepts connections in memory.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// inBubble runs a test with a front and the means to connect to it.
func inBubble(t *testing.T, test func(t *testing.T, f *testFront, dial func() net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFront(t, nil)
		listener := newPipeListener()
		f.serve(t, listener, listener.dial)
		test(t, f, func() net.Conn {
			conn, err := listener.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			return conn
		})
	})
}

// closedAfter reads all that a connection has to say until it is closed, and
// tells when that was.
func closedAfter(t *testing.T, conn net.Conn) (said string, after time.Duration) {
	t.Helper()
	began := time.Now()
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Error(err)
	}
	return string(all), time.Since(began)
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

func head(token string, length int) string {
	return fmt.Sprintf("POST /api/v1/clients HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", token, length)
}

// A client that doesn't send what it has begun is cut off.
func TestServe_SlowRequest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, sent string
		status     string // of the answer, if there is one
		within     time.Duration
	}{
		{"no header", "", "", time.Minute},
		{"half a header", "POST /api/v1/clients HTTP/1.1\r\nHost: x\r\n", "", 11 * time.Second},
		{"no body", head("TOKEN", 1_000), "408", 16 * time.Second},
		{"half a body", head("TOKEN", 1_000) + "[{", "408", 16 * time.Second},
		{"half a body, unsized", strings.Replace(head("TOKEN", 1_000), "Content-Length: 1000",
			"Transfer-Encoding: chunked", 1) + "2\r\n[{\r\n", "408", 17 * time.Second},
		{"half a gzip", strings.Replace(head("TOKEN", 1_000), "Content-Type", "Content-Encoding: gzip\r\nContent-Type",
			1) + "\x1f\x8b", "408", 16 * time.Second},
		{"no token, no body", head("x", 1_000), "401", 16 * time.Second},
		{"no body of another type", strings.Replace(head("TOKEN", 1_000), "/json", "/xml", 1), "415", 16 * time.Second},
		{"unknown path, no body", strings.Replace(head("x", 1_000), "clients", "x", 1), "404", 16 * time.Second},
		{"half a form", "POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\ngrant", "400", 16 * time.Second},
		{"a form of another type",
			"POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n",
			"401", 16 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, f *testFront, dial func() net.Conn) {
				conn := dial()
				send(t, conn, strings.Replace(c.sent, "TOKEN", f.token(t), 1))
				said, after := closedAfter(t, conn)
				if !strings.HasPrefix(said, "HTTP/1.1 "+c.status) && c.status != "" || after > c.within {
					t.Errorf("closed after %s, having said %s", after, said)
				}
				if c.status == "408" && !strings.Contains(said, `"code":"body_too_slow"`) {
					t.Errorf("said %s", said)
				}
				if f.Inflight() != 0 {
					t.Errorf("%d bytes are still set aside", f.Inflight())
				}
			})
		})
	}
}

// A client that sends little by little has as long as 64 KiB a second take.
func TestServe_SlowBody(t *testing.T) {
	t.Parallel()
	const piece = 32 << 10
	for _, c := range []struct {
		every  time.Duration
		status string
	}{{250 * time.Millisecond, "200"}, {2 * time.Second, "408"}} {
		t.Run(c.every.String(), func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, f *testFront, dial func() net.Conn) {
				conn := dial()
				body := items("a") + strings.Repeat(" ", 100*piece)
				var sending sync.WaitGroup
				defer sending.Wait()
				sending.Go(func() {
					send(t, conn, head(f.token(t), len(body)))
					for len(body) > 0 {
						n := min(piece, len(body))
						if _, err := io.WriteString(conn, body[:n]); err != nil {
							return
						}
						body = body[n:]
						time.Sleep(c.every)
					}
				})
				response, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.HasPrefix(response.Status, c.status) {
					t.Errorf("answered %s", response.Status)
				}
				conn.Close()
			})
		})
	}
}

// A body that ends early is refused.
func TestServe_HalfABody(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	send(t, conn, head(f.token(t), 1_000)+"[{")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	said, _ := closedAfter(t, conn)
	if !strings.HasPrefix(said, "HTTP/1.1 400") || f.queue.submitted() > 0 {
		t.Errorf("answered %s", said)
	}
	localtest.Eventually(t, "all memory is given back", func() bool { return f.Inflight() == 0 })
}

// A wait may take its time: the limits on sending are over by then.
func TestServe_LongWait(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		prefer, applied string
		takes           time.Duration
	}{
		{"", "", 10 * time.Second},
		{"wait=3", "wait=3", 3 * time.Second},
		{"wait=25", "wait=25", 25 * time.Second},
		{"wait=99", "wait=30", 30 * time.Second},
		{"wait=99999999999999999999", "wait=30", 30 * time.Second},
		{"wait=-1", "", 10 * time.Second},
	} {
		t.Run(c.prefer, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, f *testFront, _ func() net.Conn) {
				f.queue.submit = func(context.Context, *intake.Batch) (queue.Ticket, error) {
					return untilDone(nil),
						nil
				}
				began := time.Now()
				a := f.do(t, f.create(t, f.token(t), strings.NewReader(items("a")), "Prefer", c.prefer))
				if took := time.Since(began); took != c.takes || a.status != http.StatusAccepted ||
					a.header.Get("Preference-Applied") != c.applied {
					t.Errorf("answered %d after %s, Preference-Applied: %s", a.status, took,
						a.header.Get("Preference-Applied"))
				}
			})
		})
	}
}

// The time that one answer may take is over when the next request comes on the
// same connection.
func TestServe_LateRequest(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, f *testFront, dial func() net.Conn) {
		conn := dial()
		reader := bufio.NewReader(conn)
		token := f.token(t)
		ask := func(token, body string) string {
			t.Helper()
			send(t, conn, strings.Replace(head(token, len(body)), "\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n", 1))
			response, err := http.ReadResponse(reader, nil)
			if err == nil && response.StatusCode == http.StatusContinue {
				send(t, conn, body)
				response, err = http.ReadResponse(reader, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if _, err := io.Copy(io.Discard, response.Body); err != nil {
				t.Fatal(err)
			}
			return response.Status
		}
		for i, want := range []string{"200 OK", "400 Bad Request", "200 OK", "401 Unauthorized"} {
			given := token
			if want[:3] == "401" {
				given = "x"
			}
			body := items("a")
			if want[:3] == "400" {
				body = "x"
			}
			if got := ask(given, body); got != want {
				t.Errorf("request %d: answered %s, want %s", i, got, want)
			}
			time.Sleep(time.Minute)
		}
	})
}

// A client that doesn't read its answer is cut off.
func TestServe_SlowReader(t *testing.T) {
	t.Parallel()
	for _, body := range []string{items("a"), "[" + strings.Repeat(`{"a":1},`, 9_999) + "1]", "x"} {
		inBubble(t, func(t *testing.T, f *testFront, dial func() net.Conn) {
			conn := dial()
			send(t, conn, head(f.token(t), len(body))+body)
			time.Sleep(2 * time.Minute) // without reading anything
			if _, after := closedAfter(t, conn); after > 0 {
				t.Errorf("it was not closed")
			}
			if f.Inflight() != 0 {
				t.Errorf("%d bytes are still set aside", f.Inflight())
			}
		})
	}
}

// At shutdown those that are in are answered: who waits for a commit that
// doesn't come is told to look later.
func TestServe_Shutdown(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, f *testFront, dial func() net.Conn) {
		waiting := make(chan struct{}, 1)
		f.queue.submit = func(context.Context, *intake.Batch) (queue.Ticket, error) { return untilDone(waiting), nil }
		answered := make(chan *answer)
		go func() {
			a, err := f.try(f.create(t, f.token(t), strings.NewReader(items("a")), "Prefer", "wait=30"))
			if err != nil {
				t.Error(err)
			}
			answered <- a
		}()
		<-waiting
		began := time.Now()
		stopped := make(chan error)
		go func() { stopped <- f.stopped() }()
		synctest.Wait()
		if _, err := f.try(f.create(t, "", nil)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a new request got %v", err)
		}
		if a := <-answered; a.status != http.StatusAccepted || time.Since(began) >= 30*time.Second {
			t.Errorf("answered %d after %s", a.status, time.Since(began))
		}
		if err := <-stopped; err != nil || time.Since(began) > 30*time.Second {
			t.Errorf("stopped after %s with %v", time.Since(began), err)
		}
	})
}

// Whose body is still coming near the end of the time is told that nothing of it
// is taken.
func TestServe_ShutdownWithinBody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFront(t, nil)
		listener := newPipeListener()
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error)
		go func() { served <- f.Serve(ctx, listener, 5*time.Second) }()
		conn, err := listener.dial(ctx, "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		send(t, conn, head(f.token(t), 1_000)+"[")
		synctest.Wait() // the request is in
		began := time.Now()
		stop()
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || response.StatusCode != http.StatusServiceUnavailable ||
			response.Header.Get("Retry-After") == "" {
			t.Errorf("answered %v (%v)", response, err)
		}
		conn.Close()
		if err := <-served; err != nil || time.Since(began) > 5*time.Second {
			t.Errorf("stopped after %s with %v", time.Since(began), err)
		}
		synctest.Wait()
	})
}

// Who doesn't take its answer is broken off when the time is over.
func TestServe_ShutdownTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFront(t, nil)
		listener := newPipeListener()
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error)
		go func() { served <- f.Serve(ctx, listener, 5*time.Second) }()
		conn, err := listener.dial(ctx, "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		body := items("a")
		send(t, conn, head(f.token(t), len(body))+body)
		synctest.Wait() // it is being answered
		began := time.Now()
		stop()
		if err := <-served; !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 6*time.Second {
			t.Errorf("stopped after %s with %v", time.Since(began), err)
		}
		synctest.Wait()
	})
}

// A front that is to stop goes on for a while, and has each client connect anew.
func TestServe_DrainDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFront(t, func(o *options) { o.DrainDelay = 2 * time.Second })
		listener := newPipeListener()
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error)
		go func() { served <- f.Serve(ctx, listener, 10*time.Second) }()
		stop()
		time.Sleep(time.Second)
		conn, err := listener.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		body := items("a")
		send(t, conn, head(f.token(t), len(body))+body)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || response.StatusCode != http.StatusOK || !response.Close {
			t.Errorf("answered %v (%v)", response, err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		if _, err := listener.dial(t.Context(), "", ""); err == nil {
			t.Error("connected after the end")
		}
	})
}
