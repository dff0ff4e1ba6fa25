package front_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/klauspost/compress/zstd"

	"intake"
	"intake/cmd/intake/internal/auth/authtest"
	"intake/internal/local/localtest"
	"intake/sink"
	"intake/worker/queue"
)

// A testStream is a stream that is sent and read line by line.
type testStream struct {
	t       testing.TB
	send    *io.PipeWriter
	answers *bufio.Reader
	status  int
}

func (f *testFront) openStream(t testing.TB, client *http.Client, headers ...string) *testStream {
	t.Helper()
	body, send := io.Pipe()
	request := f.create(t, f.token(t), body, append([]string{"Content-Type", "application/x-ndjson"}, headers...)...)
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		send.Close()
		response.Body.Close()
	})
	if got := response.Header.Get("Content-Type"); response.StatusCode == 200 && got != "application/x-ndjson" {
		t.Errorf("Content-Type: %s", got)
	}
	return &testStream{t, send, bufio.NewReader(response.Body), response.StatusCode}
}

func (s *testStream) write(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.send, text); err != nil {
		s.t.Fatal(err)
	}
}

// wantLine reads an answer that has snippets in it.
func (s *testStream) wantLine(snippets ...string) {
	s.t.Helper()
	line, err := s.answers.ReadString('\n')
	if err != nil {
		s.t.Fatalf("%v after %.300s", err, line)
	}
	for _, snippet := range snippets {
		if !strings.Contains(line, snippet) {
			s.t.Errorf("answered %.300s, which lacks %s", line, snippet)
		}
	}
}

func (s *testStream) wantEnd() {
	s.t.Helper()
	if rest, err := io.ReadAll(s.answers); err != nil || len(rest) > 0 {
		s.t.Errorf("the answer goes on with %.300q, %v", rest, err)
	}
}

// h2Client speaks HTTP/2 without TLS.
func h2Client(t testing.TB) *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Answers come while the request is still being sent, in order, whatever a line is.
func TestStream(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	for name, client := range map[string]*http.Client{"HTTP/1.1": f.client, "HTTP/2": h2Client(t)} {
		t.Run(name, func(t *testing.T) {
			s := f.openStream(t, client, "Prefer", "return=minimal")
			s.write(items("a") + "\n")
			s.wantLine(`{"status_check_id":"`,
				`"status":"Completed","result":[{"status":{"state":"Completed","code":"saved"`)
			s.write("\n \r\n") // blank lines are none
			s.write(items("a", "b") + "\r\n{}\n[" + "\n")
			s.wantLine(`"result":[{"status":{"state":"Completed"`)
			s.wantLine(`"status":400`, "array")
			s.wantLine(`"status":400`)
			s.write("[" + strings.Repeat("[", 40) + "\n" + `[{"partner_client_id":"x"}]` + "\n\xff\n")
			s.wantLine(`"status":400`)
			s.wantLine(`"status":"Completed","result":[{"status":{"state":"Failed","code":"invalid"`)
			s.wantLine(`"status":400`)
			s.write(items("last, without an end of line"))
			s.send.Close()
			s.wantLine(`"code":"saved"`)
			s.wantEnd()
		})
	}
	localtest.Eventually(t, "all memory is given back", func() bool { return f.Inflight() == 0 })
}

// A line that is longer than any batch is answered, and the stream goes on.
func TestStream_LongLine(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	s := f.openStream(t, f.client)
	go func() {
		_, _ = io.Copy(s.send, io.LimitReader(&repeated{text: "[      "}, 33<<20))
		_, _ = io.WriteString(s.send, "\n"+items("a")+"\n")
		s.send.Close()
	}()
	s.wantLine(`"status":413`)
	s.wantLine(`"code":"saved"`)
	s.wantEnd()
}

func TestStream_Compressed(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	for _, encoding := range []string{"gzip", "zstd"} {
		s := f.openStream(t, f.client, "Content-Encoding", encoding)
		var compressor interface {
			io.WriteCloser
			Flush() error
		} = gzip.NewWriter(s.send)
		if encoding == "zstd" {
			var err error
			if compressor, err = zstd.NewWriter(s.send); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if _, err := io.WriteString(compressor, items("a")+"\n"); err != nil {
				t.Fatal(err)
			}
			if err := compressor.Flush(); err != nil {
				t.Fatal(err)
			}
			s.wantLine(`"code":"saved"`)
		}
		if err := compressor.Close(); err != nil {
			t.Fatal(err)
		}
		s.send.Close()
		s.wantEnd()

		s = f.openStream(t, f.client, "Content-Encoding", encoding)
		s.write(items("a") + "\n")
		s.send.Close()
		s.wantLine(`"status":400`, "Content-Encoding")
		s.wantEnd()
	}
	localtest.Eventually(t, "all memory is given back", func() bool { return f.Inflight() == 0 })
}

// Eight batches are in flight; the ninth isn't read before the first is answered.
// Answers wait for those before them.
func TestStream_InFlight(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	var mu sync.Mutex
	var waiting []chan struct{}
	var most, now atomic.Int64
	f.queue.submit = func(_ context.Context, batch *intake.Batch) (queue.Ticket, error) {
		saved := make(chan struct{})
		mu.Lock()
		waiting = append(waiting, saved)
		mu.Unlock()
		most.Store(max(most.Load(), now.Add(1)))
		return &fakeTicket{wait: func(context.Context) bool {
			<-saved
			now.Add(-1)
			saveAll(batch)
			return true
		}}, nil
	}
	s := f.openStream(t, f.client)
	const lines = 20
	go func() {
		for n := range lines {
			_, _ = io.WriteString(s.send, items(fmt.Sprint("item-", n, "."))+"\n")
		}
		s.send.Close()
	}()
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(waiting)
	}
	localtest.Eventually(t, "eight batches are in flight", func() bool { return count() == 8 })
	for released := 0; released < lines; {
		localtest.Eventually(t, "another batch is in flight", func() bool { return count() > released })
		mu.Lock()
		// The last one that waits is saved first.
		for i := len(waiting) - 1; i >= released; i-- {
			close(waiting[i])
		}
		released = len(waiting)
		mu.Unlock()
	}
	// Several came in at once, so they were submitted in any order: that of the
	// answers is the lines'.
	for n := range lines {
		s.wantLine(fmt.Sprint(`"item-`, n, `."`), `"code":"saved"`)
	}
	s.wantEnd()
	if most.Load() > 8 {
		t.Errorf("%d batches were in flight", most.Load())
	}
}

// One who takes no answers isn't read from any more; the others are served.
func TestStream_SlowReader(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	s := f.openStream(t, f.client)
	line := []byte("[" + strings.Repeat(" ", 1<<20) + items("a")[1:] + "\n")
	large := bytes.Replace(line, []byte("[ "), []byte(`[{"partner_client_id":"b","entity_type":"`+strings.Repeat("x",
		1<<20)+`"},`), 1)
	var sent atomic.Int64
	go func() {
		for {
			if _, err := s.send.Write(large); err != nil {
				return
			}
			sent.Add(1)
		}
	}()
	var last int64 = -1
	localtest.Eventually(t, "nothing moves any more", func() bool {
		time.Sleep(100 * time.Millisecond)
		before := last
		last = sent.Load()
		return before == last && last > 0
	})
	if last > 40 { // 8 in flight, and what the connection's buffers hold
		t.Errorf("%d lines of 2 MiB are sent, and no answer was taken", last)
	}
	if a := f.do(t, f.create(t, f.token(t), strings.NewReader(items("other")))); a.status != 200 {
		t.Errorf("another client is answered %d", a.status)
	}
	s.send.CloseWithError(io.ErrUnexpectedEOF)
}

// A silent stream is closed, and told why; blank lines keep one open.
func TestStream_Silence(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	f.SetStreamSilence(2 * time.Second)
	s := f.openStream(t, f.client)
	s.write(items("a") + "\n")
	s.wantLine(`"code":"saved"`)
	for range 8 {
		time.Sleep(300 * time.Millisecond)
		s.write("\n")
	}
	s.write(items("b") + "\n")
	s.wantLine(`"code":"saved"`)
	s.wantLine(`"status":408`, "2s")
	s.wantEnd()
}

// At shutdown what is in flight is answered, and the client told to go on
// elsewhere.
func TestStream_Shutdown(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	saved := make(chan struct{})
	f.queue.submit = func(_ context.Context, batch *intake.Batch) (queue.Ticket, error) {
		return &fakeTicket{wait: func(context.Context) bool {
			<-saved
			saveAll(batch)
			return true
		}}, nil
	}
	s := f.openStream(t, f.client)
	s.write(items("a") + "\n")
	localtest.Eventually(t, "the batch is queued", func() bool { return f.queue.submitted() == 1 })
	f.stop()
	close(saved)
	s.wantLine(`"code":"saved"`)
	s.wantLine(`"status":503`, "shutting down")
	s.wantEnd()
	if err := f.stopped(); err != nil {
		t.Error(err)
	}
}

// A stream is held to what is known of its partner now: it ends when the partner may
// not come in any more, also while nothing comes; lines before are answered.
func TestStream_PartnerChanges(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	change := func(change func(*sink.PartnerRecord)) {
		t.Helper()
		f.registry.Change("acme", change)
		f.reload(t)
	}
	item := `[{"partner_client_id":"a","entity_type":"SoleTrader","revenue_claims":[{"start_date":"2025-01-01T00:00:00.000Z",` +
		`"end_date":"2025-01-31T23:59:59.999Z","time_period":"Monthly","currency":"GBP","total_amount":1,"transaction_count":1}]}]` + "\n"
	silent, s := f.openStream(t, f.client), f.openStream(t, f.client)
	s.write(item)
	s.wantLine(`"code":"saved"`)
	change(func(p *sink.PartnerRecord) { p.Currency = "EUR" })
	s.write(item)
	s.wantLine(`"code":"invalid"`, "currency")
	change(func(p *sink.PartnerRecord) { p.Currency, p.EntityTypes = "GBP", []string{"Company"} })
	s.write(item)
	s.wantLine(`"code":"invalid"`, "entity_type")
	change(func(p *sink.PartnerRecord) {
		p.EntityTypes, p.Limits = nil, intake.Limits{ItemsPerSecond: 1, Burst: 10_000, Requests: 2}
	})
	s.write(item)
	s.wantLine(`"code":"saved"`)
	f.do(t, f.create(t, f.token(t), strings.NewReader(items("b")))).checkProblem(t, http.StatusTooManyRequests,
		"more than 2 requests")

	saved := make(chan struct{})
	f.queue.submit = func(_ context.Context, batch *intake.Batch) (queue.Ticket, error) {
		return &fakeTicket{wait: func(context.Context) bool {
			<-saved
			saveAll(batch)
			return true
		}}, nil
	}
	queued := f.queue.submitted()
	s.write(item)
	localtest.Eventually(t, "the batch is queued", func() bool { return f.queue.submitted() > queued })
	change(func(p *sink.PartnerRecord) { p.Disabled = true })
	silent.wantLine(`"status":401`, "is unknown or disabled")
	silent.wantEnd()
	close(saved)
	s.wantLine(`"code":"saved"`)
	s.wantLine(`"status":401`, "is unknown or disabled")
	s.wantEnd()

	change(func(p *sink.PartnerRecord) { p.Disabled = false })
	s = f.openStream(t, f.client)
	change(func(p *sink.PartnerRecord) { p.Disabled = true })
	queued = f.queue.submitted()
	s.write(item)
	s.wantLine(`"status":401`, "is unknown or disabled")
	if f.queue.submitted() > queued {
		t.Error("a line of a partner that is disabled is queued")
	}
}

// A stream ends when its token does: when that has expired, or its issuer has
// withdrawn the key.
func TestStream_TokenIsOver(t *testing.T) {
	t.Parallel()
	open := func(t *testing.T, f *testFront, token string) *testStream {
		t.Helper()
		listener := newPipeListener()
		f.serve(t, listener, listener.dial)
		s := f.openStream(t, f.client, "Authorization", "Bearer "+token)
		s.write(items("a") + "\n")
		s.wantLine(`"code":"saved"`)
		return s
	}
	t.Run("expired", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := newFront(t, nil)
			s := open(t, f, f.token(t))
			for range 121 {
				time.Sleep(30 * time.Second)
				s.write("\n")
			}
			s.write(items("b") + "\n")
			s.wantLine(`"code":"saved"`)
			time.Sleep(35 * time.Second)
			s.wantLine(`"status":401`, "has expired")
			s.wantEnd()
		})
	})
	t.Run("withdrawn", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			key := authtest.NewKey(t, "1", jwt.SigningMethodES256)
			issuer := authtest.NewIssuer(t, "https://issuer.example", key)
			f := withIssuer(t, issuer.URL, issuer, false)
			s := open(t, f, issuer.Token(t))
			issuer.SetKeys(authtest.NewKey(t, "2", jwt.SigningMethodES256))
			time.Sleep(31 * time.Second)
			s.write(items("b") + "\n")
			s.wantLine(`"code":"saved"`)
			time.Sleep(31 * time.Second)
			s.wantLine(`"status":401`, "not valid")
			s.wantEnd()
		})
	})
}

// One who goes away leaves nothing behind; what was queued is saved all the same.
func TestStream_ClientGone(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	began := make(chan struct{}, 8)
	f.queue.submit = func(context.Context, *intake.Batch) (queue.Ticket, error) { return untilDone(began), nil }
	s := f.openStream(t, f.client)
	s.write(items("a") + "\n" + items("b") + "\n")
	<-began
	<-began
	s.send.CloseWithError(io.ErrUnexpectedEOF)
	localtest.Eventually(t, "all memory is given back", func() bool { return f.Inflight() == 0 })
}

// What can't be known is not answered: the stream is broken off there.
func TestStream_Uncertain(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	f.queue.submit = func(_ context.Context, batch *intake.Batch) (queue.Ticket, error) {
		if batch.Items[0].Key == "uncertain" {
			return nil, queue.ErrUncertain
		}
		saveAll(batch)
		return &fakeTicket{wait: func(context.Context) bool { return true }}, nil
	}
	s := f.openStream(t, f.client)
	s.write(items("a") + "\n")
	s.wantLine(`"code":"saved"`)
	s.write(items("uncertain") + "\n")
	if rest, err := io.ReadAll(s.answers); err == nil || len(rest) > 0 {
		t.Errorf("answered %q, %v", rest, err)
	}
}

// A stream that is refused is told at once, not when it has ended.
func TestStream_RefusedOpen(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	body, send := io.Pipe()
	defer send.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // less than a front waits for a body
	defer cancel()
	request := f.create(t, "x", body, "Content-Type", "application/x-ndjson").WithContext(ctx)
	response, err := f.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusUnauthorized {
		t.Error(response.Status)
	}
}

// Requests that are no streams are refused as ever.
func TestStream_Refused(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	token := f.token(t)
	const stream = "application/x-ndjson; charset=utf-8"
	f.do(t, f.create(t, token, strings.NewReader(""), "Content-Type", stream, "Idempotency-Key", "k")).checkProblem(t,
		400, "Idempotency-Key")
	f.do(t, f.create(t, token, strings.NewReader(""), "Content-Type", stream, "Content-Encoding", "br")).checkProblem(t,
		415, "")
	f.do(t, f.create(t, "x", strings.NewReader(""), "Content-Type", stream)).checkProblem(t, 401, "")
	if a := f.do(t, f.create(t, token, strings.NewReader(""), "Content-Type", stream)); a.status != 200 || a.Len() > 0 {
		t.Errorf("an empty stream is answered %d %s", a.status, a.Bytes())
	}
}

// Streams of which nothing comes leave room for requests, and those that are too
// many are told to come again.
func TestStream_Idle(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	f.SetBudget(256 << 20)
	var open []*testStream
	var refused *testStream
	for refused == nil {
		s := f.openStream(t, f.client, "Content-Encoding", "zstd")
		switch s.status {
		case http.StatusOK:
			open = append(open, s)
		case http.StatusServiceUnavailable:
			refused = s
		default:
			t.Fatal(s.status)
		}
	}
	refused.wantLine("the server is at its memory limit for requests")
	if n := len(open); n < 2 || f.Inflight() > 64<<20 {
		t.Errorf("%d streams have %d bytes", n, f.Inflight())
	}
	if a := f.do(t, f.create(t, f.token(t),
		strings.NewReader("["+strings.Repeat(" ", 30<<20)+items("a")[1:]))); a.status != http.StatusOK {
		t.Errorf("%d %.300s", a.status, a.Bytes())
	}
	open[0].send.Close()
	open[0].wantEnd()
	localtest.Eventually(t, "a stream may be opened again",
		func() bool { return f.openStream(t, f.client, "Content-Encoding", "zstd").status == http.StatusOK })
}

// What follows a stream on its connection is no request, neither the rest of a body that
// was not read to the end nor the next stream.
func TestStream_ClosesConnection(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	token := f.token(t)
	host := strings.TrimPrefix(f.url, "http://")
	headOf := func(token string, headers ...string) string {
		return "POST /api/v1/clients HTTP/1.1\r\nHost: " + host + "\r\nAuthorization: Bearer " + token +
			"\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n" + strings.Join(headers,
			"") + "\r\n"
	}
	chunk := func(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }
	line := chunk(items("a") + "\n")
	packed := headOf(token, "Content-Encoding: gzip\r\n")
	const end = "0\r\n\r\n"
	smuggled := "GET /livez HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
	for name, sent := range map[string]struct{ first, rest string }{
		"refused":           {headOf("nobody's") + line + end + headOf(token), line + end},
		"with a key":        {headOf(token, "Idempotency-Key: x\r\n") + line + end + headOf(token), line + end},
		"packed":            {packed + chunk(gzipped(t, items("a")+"\n")) + end + headOf(token), line + end},
		"ended by us":       {packed + chunk("not packed"), smuggled},
		"refused in a line": {headOf("nobody's") + "400\r\n[", smuggled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", host)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, sent.first); err != nil {
				t.Fatal(err)
			}
			answers := bufio.NewReader(conn)
			response, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, response.Body); err != nil {
				t.Fatal(err)
			}
			if !response.Close {
				t.Error("the answer leaves the connection open")
			}
			time.Sleep(1200 * time.Millisecond) // longer than the server waits for the rest of the body
			_, _ = io.WriteString(conn, sent.rest)
			if more, err := http.ReadResponse(answers, nil); err == nil {
				t.Errorf("what follows is answered %s", more.Status)
			}
		})
	}
}
