package front_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"intake"
	"intake/internal/local/localtest"
)

// An h2Conn is a connection of a client that does as it likes.
type h2Conn struct {
	t    *testing.T
	conn net.Conn
	*http2.Framer
}

func (f *testFront) dialH2(t *testing.T, settings ...http2.Setting) *h2Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	c := &h2Conn{t, conn, http2.NewFramer(conn, conn)}
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return c
}

// block encodes headers, given as name, value, …
func block(headers ...string) []byte {
	var b bytes.Buffer
	encoder := hpack.NewEncoder(&b)
	for i := 0; i < len(headers); i += 2 {
		_ = encoder.WriteField(hpack.HeaderField{Name: headers[i], Value: headers[i+1]}) // a bytes.Buffer takes all
	}
	return b.Bytes()
}

// begin sends the headers of a request; its body may follow.
func (c *h2Conn) begin(stream uint32, headers []byte, end bool) error {
	return c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: headers, EndHeaders: true,
		EndStream: end})
}

// outcome reads on until a stream is answered or reset, or the connection ends, and
// tells which. It answers pings, as a client that is there does.
func (c *h2Conn) outcome(stream uint32) string {
	c.t.Helper()
	for {
		frame, err := c.ReadFrame()
		switch {
		case isTimeout(err):
			c.t.Fatal("the connection stays open")
		case err != nil:
			return "closed"
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = c.WriteSettingsAck()
			}
		case *http2.PingFrame:
			_ = c.WritePing(true, frame.Data)
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo {
				return frame.ErrCode.String()
			}
		case *http2.RSTStreamFrame:
			if frame.StreamID == stream {
				return frame.ErrCode.String()
			}
		case *http2.MetaHeadersFrame:
			if frame.StreamID == stream {
				return frame.PseudoValue("status")
			}
		}
	}
}

// hungUp waits until the server ends a connection whose client answers nothing.
func (c *h2Conn) hungUp() {
	c.t.Helper()
	if _, err := io.Copy(io.Discard, c.conn); isTimeout(err) {
		c.t.Error("the connection stays open")
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// What is done over HTTP/2 to take memory, time or connections is refused, or ended
// after some seconds, and others are served all the while.
func TestServe_HTTP2(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	token := f.token(t)
	body := items("a")
	post := []string{":method", "POST", ":scheme", "http", ":authority", "intake.test", ":path", "/api/v1/clients",
		"authorization", "Bearer " + token, "content-type", "application/json"}
	with := func(headers ...string) []byte { return block(append(post[:len(post):len(post)], headers...)...) }
	for name, attack := range map[string]func(t *testing.T){
		"nothing but a preface": func(t *testing.T) {
			f.dialH2(t).hungUp()
		},
		"headers that don't end": func(t *testing.T) {
			c := f.dialH2(t)
			if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: with()}); err != nil {
				t.Fatal(err)
			}
			c.hungUp()
		},
		"headers that trickle": func(t *testing.T) {
			c := f.dialH2(t)
			deadline := time.Now().Add(2 * time.Minute)
			err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: with()})
			for err == nil {
				if time.Now().After(deadline) {
					t.Fatal("the connection stays open")
				}
				time.Sleep(time.Second)
				err = c.WriteContinuation(1, false, nil)
			}
		},
		"headers without end": func(t *testing.T) {
			c := f.dialH2(t)
			err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: with()})
			more := block("x", strings.Repeat("x", 10<<10))
			for sent := 0; err == nil; sent += len(more) {
				if err = c.WriteContinuation(1, false, more); sent > 64<<20 {
					t.Fatal("64 MiB of headers are taken")
				}
			}
		},
		"a header of 1 MB": func(t *testing.T) {
			c := f.dialH2(t)
			large := with("x", strings.Repeat("x", 1<<20))
			err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: large[:16<<10]})
			for large = large[16<<10:]; err == nil && len(large) > 0; {
				n := min(len(large), 16<<10)
				err = c.WriteContinuation(1, n == len(large), large[:n])
				large = large[n:]
			}
			if got := c.outcome(1); got != "431" && got != "closed" && got != "PROTOCOL_ERROR" &&
				got != "COMPRESSION_ERROR" {
				t.Error(got)
			}
		},
		"streams that are reset at once": func(t *testing.T) {
			c := f.dialH2(t)
			for stream := uint32(1); c.begin(stream, with(), false) == nil &&
				c.WriteRSTStream(stream, http2.ErrCodeCancel) == nil; stream += 2 {
				if stream > 1<<20 {
					t.Fatal("half a million requests are taken, and taken back")
				}
			}
		},
		"too many streams": func(t *testing.T) {
			c := f.dialH2(t)
			for stream := uint32(1); stream < 2*300; stream += 2 {
				if err := c.begin(stream, with(), false); err != nil {
					t.Fatal(err)
				}
			}
			if got := c.outcome(2*300 - 1); got != "REFUSED_STREAM" && got != "PROTOCOL_ERROR" {
				t.Error(got)
			}
		},
		"a body that doesn't come": func(t *testing.T) {
			c := f.dialH2(t)
			if err := c.begin(1, with("content-length", fmt.Sprint(intake.MaxBodyBytes)), false); err != nil {
				t.Fatal(err)
			}
			if got := c.outcome(1); got != "408" {
				t.Error(got)
			}
		},
		"more than its length": func(t *testing.T) {
			c := f.dialH2(t)
			if err := errors.Join(c.begin(1, with("content-length", "3"), false),
				c.WriteData(1, true, []byte(body))); err != nil {
				t.Fatal(err)
			}
			if got := c.outcome(1); got != "PROTOCOL_ERROR" && got != "400" {
				t.Error(got)
			}
		},
		"less than its length": func(t *testing.T) {
			c := f.dialH2(t)
			if err := errors.Join(c.begin(1, with("content-length", "3000"), false),
				c.WriteData(1, true, []byte(body))); err != nil {
				t.Fatal(err)
			}
			if got := c.outcome(1); got != "PROTOCOL_ERROR" && got != "400" {
				t.Error(got)
			}
		},
		"two lengths":         malformed(f, with("content-length", "3", "content-length", "4")),
		"two content types":   malformed(f, with("content-type", "text/plain")),
		"two keys":            malformed(f, with("idempotency-key", "a", "idempotency-key", "b")),
		"a connection header": malformed(f, with("connection", "close")),
		"chunks":              malformed(f, with("transfer-encoding", "chunked")),
		"capitals in a name":  malformed(f, with("X-Capital", "x")),
		"a line end":          malformed(f, with("x", "a\r\nb")),
		"two methods":         malformed(f, block(append([]string{":method", "GET"}, post...)...)),
		"no path":             malformed(f, block(append(post[:6:6], post[8:]...)...)),
		"an answer that isn't taken": func(t *testing.T) {
			ids := make([]string, 2_000)
			for i := range ids {
				ids[i] = strings.Repeat(fmt.Sprintf("%05d", i), 10)
			}
			c := f.dialH2(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			invalid := []byte(strings.ReplaceAll(items(ids...), `"entity_type"`, `"type"`))
			err := c.begin(1, with(), false)
			for sent := 0; err == nil && sent < len(invalid); sent += 16 << 10 {
				rest := invalid[sent:]
				err = c.WriteData(1, len(rest) <= 16<<10, rest[:min(len(rest), 16<<10)])
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := c.outcome(1); got != "200" {
				t.Fatal(got)
			}
			if got := c.outcome(1); got == "200" {
				t.Error(got)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			attack(t)
			if a := f.get(t, "/livez", token); a.status != http.StatusOK {
				t.Errorf("another one is answered %d", a.status)
			}
		})
	}
	t.Cleanup(func() {
		localtest.Eventually(t, "all memory is given back", func() bool { return f.Inflight() == 0 })
		if f.queue.submitted() > 0 {
			t.Error("something was queued")
		}
	})
}

// malformed sends a request that must be refused for its headers.
func malformed(f *testFront, headers []byte) func(t *testing.T) {
	return func(t *testing.T) {
		c := f.dialH2(t)
		if err := errors.Join(c.begin(1, headers, false), c.WriteData(1, true, []byte(items("a")))); err != nil {
			t.Fatal(err)
		}
		if got := c.outcome(1); got != "PROTOCOL_ERROR" && got != "400" {
			t.Error(got)
		}
	}
}
