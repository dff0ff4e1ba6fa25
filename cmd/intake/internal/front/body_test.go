package front_test

import (
	"bytes"
	"context"
	"io"
	"math/bits"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"intake"
	"intake/cmd/intake/internal/front"
	"intake/internal/local/localtest"
	"intake/worker/queue"
)

func gzipped(t testing.TB, plain string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// zstded compresses as a stream, whose length the frame's header doesn't tell.
func zstded(t testing.TB, plain string) string {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for text := strings.NewReader(plain); text.Len() > 0; {
		if _, err := io.CopyN(w, text, min(50_000, int64(text.Len()))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func zstdedAtOnce(t testing.TB, plain string) string {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return string(w.EncodeAll([]byte(plain), nil))
}

// unsized hides a body's length, so that it is sent in chunks.
func unsized(body string) io.Reader { return io.MultiReader(strings.NewReader(body)) }

func TestCreate_Compressed(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	token := f.token(t)
	batch := items("a", "b", "c")
	long := "[" + strings.Repeat(" ", 5<<20) + batch[1:]
	for _, c := range []struct{ name, encoding, body, says string }{
		{"gzip", "gzip", gzipped(t, batch), ""},
		{"x-gzip", "x-gzip", gzipped(t, batch), ""},
		{"capitals", " GZip ", gzipped(t, batch), ""},
		{"gzip in two members", "gzip", gzipped(t, batch[:20]) + gzipped(t, batch[20:]), ""},
		{"gzip, long", "gzip", gzipped(t, long), ""},
		{"zstd", "zstd", zstded(t, batch), ""},
		{"zstd, its length told", "zstd", zstdedAtOnce(t, batch), ""},
		{"zstd in three frames", "zstd", zstded(t, batch[:20]) + zstdedAtOnce(t, batch[20:40]) + zstded(t, batch[40:]),
			""},
		{"zstd, long", "zstd", zstded(t, long), ""},
		{"zstd, long, its length told", "zstd", zstdedAtOnce(t, long), ""},
		{"not gzip", "gzip", batch, "not what Content-Encoding says"},
		{"not zstd", "zstd", batch, "not what Content-Encoding says"},
		{"gzip said to be zstd", "zstd", gzipped(t, batch), "not what Content-Encoding says"},
		{"empty gzip", "gzip", "", "not what Content-Encoding says"},
		{"empty zstd", "zstd", "", "empty"},
		{"gzip of nothing", "gzip", gzipped(t, ""), "empty"},
		{"zstd of nothing", "zstd", zstded(t, ""), "empty"},
		{"half a gzip", "gzip", gzipped(t, batch)[:40], "not what Content-Encoding says"},
		{"half a zstd", "zstd", zstded(t, batch)[:40], "not what Content-Encoding says"},
		{"gzip and rubbish", "gzip", gzipped(t, batch) + "rubbish", "not what Content-Encoding says"},
		{"zstd and rubbish", "zstd", zstded(t, batch) + "rubbish", "not what Content-Encoding says"},
		{"gzip with a wrong checksum", "gzip", flipped(gzipped(t, batch), -6), "not what Content-Encoding says"},
		{"zstd with a wrong checksum", "zstd", flipped(zstded(t, batch), -2), "not what Content-Encoding says"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, body := range []io.Reader{strings.NewReader(c.body), unsized(c.body)} {
				a := f.do(t, f.create(t, token, body, "Content-Encoding", c.encoding))
				if c.says != "" {
					a.checkProblem(t, http.StatusBadRequest, c.says)
				} else if b := a.batch(t); len(b.Result) != 3 ||
					string(b.Result[2].Data) != batch[strings.LastIndex(batch, "{"):len(batch)-1] {
					t.Errorf("answered %d %s", a.status, a.Bytes())
				}
			}
		})
	}
	t.Cleanup(func() {
		if f.Inflight() != 0 {
			t.Errorf("%d bytes are still set aside", f.Inflight())
		}
	})
}

// flipped changes a byte; at is from the end if negative.
func flipped(s string, at int) string {
	b := []byte(s)
	b[(len(b)+at)%len(b)] ^= 1
	return string(b)
}

// 32 MiB after decompression are let in, not a byte more, whatever was sent.
func TestCreate_Largest(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	token := f.token(t)
	batch := items("a")
	largest := "[" + strings.Repeat(" ", intake.MaxBodyBytes-len(batch)) + batch[1:]
	tooLarge := " " + largest
	bomb := strings.Repeat(" ", 2*intake.MaxBodyBytes)
	for _, c := range []struct {
		name, encoding string
		body           io.Reader
		status         int
	}{
		{"plain", "", strings.NewReader(largest), 200},
		{"plain, too large", "", strings.NewReader(tooLarge), 413},
		{"unsized", "", unsized(largest), 200},
		{"unsized, too large", "", unsized(tooLarge), 413},
		{"gzip", "gzip", unsized(gzipped(t, largest)), 200},
		{"gzip, too large", "gzip", unsized(gzipped(t, tooLarge)), 413},
		{"zstd", "zstd", unsized(zstded(t, largest)), 200},
		{"zstd, its length told", "zstd", unsized(zstdedAtOnce(t, largest)), 200},
		{"zstd, too large", "zstd", unsized(zstded(t, tooLarge)), 413},
		{"zstd, too large, its length told", "zstd", unsized(zstdedAtOnce(t, tooLarge)), 413},
		{"gzip bomb", "gzip", unsized(gzipped(t, bomb)), 413},
		{"zstd bomb", "zstd", unsized(zstded(t, bomb)), 413},
		{"zstd bomb, its length told", "zstd", unsized(zstdedAtOnce(t, bomb)), 413},
		{"empty members without end", "gzip", io.LimitReader(&repeated{text: gzipped(t, "")}, 1<<30), 413},
		{"empty frames without end", "zstd", io.LimitReader(&repeated{text: zstded(t, "")}, 1<<30), 413},
	} {
		t.Run(c.name, func(t *testing.T) {
			headers := []string{"Content-Encoding", c.encoding}
			a, err := f.try(f.create(t, token, c.body, headers...))
			if err != nil && c.status == 413 {
				return // it was still sending when it was cut off
			}
			if err != nil || a.status != c.status {
				t.Errorf("answered %+v %v, want %d", a, err, c.status)
			}
			if f.Inflight() != 0 {
				t.Errorf("%d bytes are still set aside", f.Inflight())
			}
		})
	}
}

type repeated struct {
	text string
	at   int
}

func (r *repeated) Read(b []byte) (n int, err error) {
	for n < len(b) {
		m := copy(b[n:], r.text[r.at:])
		n, r.at = n+m, (r.at+m)%len(r.text)
	}
	return n, nil
}

// slowQueue has each batch tell when it is to be queued, and wait for queued to be
// closed.
func (f *testFront) slowQueue() (waiting <-chan struct{}, queued chan<- struct{}) {
	told, until := make(chan struct{}), make(chan struct{})
	f.queue.submit = func(context.Context, *intake.Batch) (queue.Ticket, error) {
		told <- struct{}{}
		<-until
		return untilDone(nil), nil
	}
	return told, until
}

// Beyond the budget a request is refused at once, and let in when there is room.
func TestCreate_Budget(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	f.SetBudget(1 << 20)
	token := f.token(t)
	waiting, queued := f.slowQueue()
	body := "[" + strings.Repeat(" ", 200<<10) + items("a")[1:]
	ctx, leave := context.WithCancel(t.Context())
	var first sync.WaitGroup
	first.Go(func() { _, _ = f.try(f.create(t, token, strings.NewReader(body)).WithContext(ctx)) })
	<-waiting
	if got := f.Inflight(); got < 3*200<<10 || got > 1<<20 {
		t.Errorf("%d bytes are set aside for a body of %d", got, len(body))
	}
	many := "[1" + strings.Repeat(",1", 5_000) + "]"
	for _, c := range []struct {
		name, encoding string
		body           io.Reader
	}{
		{"plain", "", strings.NewReader(body)},
		{"unsized", "", unsized(body)},
		{"gzip", "gzip", unsized(gzipped(t, body))},
		{"zstd", "zstd", unsized(zstded(t, body))},
		{"zstd, its length told", "zstd", unsized(zstdedAtOnce(t, body))},
		{"many small items", "", strings.NewReader(many)},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := f.do(t, f.create(t, token, c.body, "Content-Encoding", c.encoding))
			a.checkProblem(t, http.StatusServiceUnavailable, "no_memory: the server is at its memory limit")
		})
	}
	close(queued)
	localtest.Eventually(t, "the memory of queued batches shrinks to that of their texts", func() bool { return f.Inflight() < 2*200<<10 }) // what is queued needs its text only
	if got := f.Inflight(); got < 200<<10 {
		t.Errorf("%d bytes are set aside for a body of %d that is queued", got, len(body))
	}
	leave()
	first.Wait()
	f.queue.submit = nil
	localtest.Eventually(t, "all memory is given back", func() bool { return f.Inflight() == 0 })
	if a := f.do(t, f.create(t, token, strings.NewReader(body))); a.status != http.StatusOK {
		t.Errorf("answered %d when there is room again", a.status)
	}
}

// The last eighth of the budget is not for bodies: what was read already has room
// for its items there, and what was not is refused before it is read.
func TestCreate_BudgetForItems(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	token := f.token(t)
	waiting, queued := f.slowQueue()
	ctx, leave := context.WithCancel(t.Context())
	var first sync.WaitGroup
	first.Go(func() {
		_, _ = f.try(f.create(t, token,
			strings.NewReader("["+strings.Repeat(" ", 400<<10)+items("a")[1:])).WithContext(ctx))
	})
	<-waiting
	// A small body would fit, but for the eighth.
	f.SetBudget(f.Inflight() + f.Inflight()/8)
	f.do(t, f.create(t, token, strings.NewReader(items("b")))).checkProblem(t, http.StatusServiceUnavailable,
		"no_memory: the server is at its memory limit")
	close(queued)
	leave()
	first.Wait()
}

// Bodies that are said to be large and of which nothing comes don't keep others out.
func TestCreate_BudgetOfSlowBodies(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	token := f.token(t)
	f.SetBudget(256 << 20)
	var running sync.WaitGroup
	ctx, leave := context.WithCancel(t.Context())
	const slow = 100
	for range slow {
		body, send := io.Pipe()
		context.AfterFunc(ctx, func() { send.Close() })
		request := f.create(t, token, body).WithContext(ctx)
		request.ContentLength = intake.MaxBodyBytes
		running.Go(func() { _, _ = f.try(request) })
	}
	localtest.Eventually(t, "all slow bodies have memory", func() bool { return f.Inflight() >= slow*3*16<<10 })
	if got := f.Inflight(); got > slow*3*128<<10 {
		t.Errorf("%d bytes are set aside for bodies of which nothing has come", got)
	}
	large := "[" + strings.Repeat(" ", 30<<20) + items("a")[1:]
	if a := f.do(t, f.create(t, token, strings.NewReader(large))); a.status != http.StatusOK {
		t.Errorf("%d %.300s", a.status, a.Bytes())
	}
	leave()
	running.Wait()
}

// Large bodies before leave as much room for small ones as there was.
func TestCreate_BudgetAfterLargeBodies(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	token := f.token(t)
	large := "[" + strings.Repeat(" ", 1<<20) + items("a")[1:]
	const largeOnes, clients = 30, 200
	var running sync.WaitGroup
	together := make(chan struct{})
	f.queue.submit = func(_ context.Context, batch *intake.Batch) (queue.Ticket, error) {
		if f.queue.submitted() == largeOnes {
			close(together)
		}
		return &fakeTicket{wait: func(context.Context) bool {
			<-together
			saveAll(batch)
			return true
		}}, nil
	}
	for range largeOnes {
		running.Go(func() {
			if a, err := f.try(f.create(t, token, strings.NewReader(large))); err != nil || a.status != http.StatusOK {
				t.Errorf("answered %+v %v", a, err)
			}
		})
	}
	running.Wait()
	waiting := make(chan struct{}, clients)
	f.queue.submit = func(context.Context, *intake.Batch) (queue.Ticket, error) { return untilDone(waiting), nil }
	ctx, leave := context.WithCancel(t.Context())
	for range clients {
		running.Go(func() {
			if a, err := f.try(f.create(t, token, strings.NewReader(items("a"))).WithContext(ctx)); err == nil {
				t.Errorf("answered %d %s", a.status, a.Bytes())
			}
		})
	}
	for range clients {
		<-waiting
	}
	if f.Inflight() > 64<<20 {
		t.Errorf("%d bytes are set aside for %d small requests", f.Inflight(), clients)
	}
	leave()
	running.Wait()
}

// A small zstd body whose frame asks for a window of 8 MiB doesn't get one.
func TestCreate_ZstdWindow(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	plain := items("a")
	for _, piece := range []string{plain[:5], plain[5:]} {
		if _, err := io.WriteString(w, piece); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var header zstd.Header
	if err := header.Decode(b.Bytes()); err != nil || header.WindowSize < 8<<20 || header.HasFCS {
		t.Fatalf("the frame is not as meant: %+v %v", header, err)
	}
	f.SetBudget(512 << 10)
	if a := f.do(t, f.create(t, f.token(t), &b, "Content-Encoding", "zstd")); a.status != http.StatusOK {
		t.Errorf("answered %d %s", a.status, a.Bytes())
	}
}

// Reading is interrupted at a shutdown, but no deadline is set any more once it is over:
// over HTTP/2 that panics when the handler has returned.
func TestCreate_InterruptedWhenRead(t *testing.T) {
	t.Parallel()
	w := &deadlineWriter{ResponseWriter: httptest.NewRecorder(), entered: make(chan struct{}),
		goOn: make(chan struct{})}
	interrupt, end := front.NewPacedReader(w)
	go interrupt()
	<-w.entered
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		end()
		w.returned.Store(true)
	}()
	close(w.goOn)
	<-ended
	interrupt()
	if set := w.set.Load(); set != 1 {
		t.Errorf("%d deadlines were set, want 1", set)
	}
	if w.late.Load() {
		t.Error("a deadline was set after the handler had returned")
	}
}

// A deadlineWriter takes a while to set its first deadline, and knows whether that was too
// late.
type deadlineWriter struct {
	http.ResponseWriter
	entered, goOn  chan struct{}
	set            atomic.Int64
	returned, late atomic.Bool
}

func (w *deadlineWriter) SetReadDeadline(time.Time) error {
	if w.set.Add(1) == 1 {
		close(w.entered)
		<-w.goOn
	}
	w.late.CompareAndSwap(false, w.returned.Load())
	return nil
}

// A buffer that is kept has at least the size that is asked for, and at most an eighth more.
func TestBodies(t *testing.T) {
	for size := int64(16 << 10); size <= 33<<20; size += size/7 + 1 {
		for _, n := range []int64{size - 1, size, size + 1, 1 << (bits.Len64(uint64(size)) - 1)} {
			for range 3 {
				buffer := front.NewBody(n)
				if got := int64(cap(buffer)); len(buffer) != 0 || got < n || got > n+n/8 {
					t.Fatalf("a buffer for %d bytes has %d of %d", n, len(buffer), got)
				}
				front.PutBody(append(buffer, "used"...))
			}
		}
	}
	if got := cap(front.NewBody(1 << 20)); got != 1<<20 {
		t.Errorf("a power of two gets %d bytes", got)
	}
	front.PutBody(nil)
	front.PutBody(make([]byte, 5, 1000)) // of no class
	front.PutBody(make([]byte, 0, 32<<20+1))
}
