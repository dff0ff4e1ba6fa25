package front

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"intake"
	"intake/cmd/intake/internal/limit"
	"intake/cmd/intake/internal/problem"
)

// maxSentBytes bounds a compressed body as it is sent: above what the largest
// batch takes if it can't be compressed.
const maxSentBytes = intake.MaxBodyBytes + 1<<20

// slowest is how long a client may take for so many bytes, at least: 64 KiB a
// second after a quarter of a minute.
func slowest(bytes int64) time.Duration {
	const rate = 64 << 10
	return 15*time.Second + time.Duration(bytes)*time.Second/rate
}

// readBody reads a batch's text, within the budget and what its partner may have in
// flight, and not for ever. The buffer is of bodies and goes back there.
func (f *Front) readBody(w http.ResponseWriter, r *http.Request, share *share, slot *limit.Slot) (*[]byte, *problem.Problem) {
	encoding, refusal := checkContent(w, r)
	if refusal != nil {
		return nil, refusal
	}
	if r.ContentLength > maxSentBytes || encoding == "" && r.ContentLength > intake.MaxBodyBytes {
		return nil, &problem.Problem{Code: problem.BodyTooLarge, Detail: "the body is larger than 32 MiB"}
	}
	controller := http.NewResponseController(w)
	base := baseOf(r)
	defer interruptAfter(base, controller)()
	var source io.Reader = &slowReader{base: base, body: r.Body, controller: controller, began: time.Now()}
	limit := int64(intake.MaxBodyBytes)
	switch encoding {
	case "gzip":
		decoder, err := gzip.NewReader(source)
		if err != nil {
			return nil, bodyProblem(w, compressionError(err))
		}
		source = compressedReader{decoder}
	case "zstd":
		limit = maxSentBytes
	}
	buffer := bodies.Get().(*[]byte)
	expected := int64(firstBuffer)
	if encoding != "gzip" && r.ContentLength >= 0 {
		expected = r.ContentLength + 1 // one more, to see the end
	}
	filling := &filling{w: w, share: share, slot: slot}
	refusal = filling.fill(buffer, source, min(expected, firstBuffer), expected, limit)
	if refusal == nil && encoding == "zstd" {
		refusal = f.inflate(buffer, filling)
	}
	if refusal == errFull {
		refusal = f.full()
	}
	if refusal != nil {
		putBody(buffer)
		return nil, refusal
	}
	// From here on the client only waits. What is left of a body that was refused
	// must still come in time: the server reads on for a while.
	_ = controller.SetReadDeadline(time.Time{})
	f.metrics.bytes.Add(float64(len(*buffer)))
	return buffer, nil
}

// interruptAfter ends reading when a context ends. After the function that it returns no
// deadline is set: over HTTP/2 that panics once the handler has returned.
func interruptAfter(ctx context.Context, controller *http.ResponseController) (stop func()) {
	interrupted := make(chan struct{})
	unregister := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = controller.SetReadDeadline(time.Unix(1, 0))
	})
	return func() {
		if !unregister() {
			<-interrupted
		}
	}
}

const (
	// minBodyBuffer is the least that is set aside for a body: a request needs
	// memory even if its body is small.
	minBodyBuffer = 16 << 10
	// firstBuffer is the most that is set aside for a body of which nothing has come
	// yet, whatever is said of its length.
	firstBuffer = 64 << 10
)

var (
	errTooLarge = &problem.Problem{Code: problem.BodyTooLarge, Detail: "the body is larger than 32 MiB after decompression"}
	errFull     = &problem.Problem{Code: problem.NoMemory, RetryAfter: time.Second, Detail: "other requests take all the memory there is; nothing of this one was saved or queued"}
)

// A filling is a body that is being read.
type filling struct {
	w     http.ResponseWriter // its connection is closed where the body can't be read on
	share *share
	slot  *limit.Slot
}

// fill reads all of a body, up to a limit, into a buffer, which has room for first
// to begin with and grows with what comes, up to what is expected in steps of four
// and then by doubling, each time within the budget. What is expected and doesn't
// fit is refused at once. What has come, unpacked, counts for the partner's bytes in
// flight.
func (f *filling) fill(buffer *[]byte, source io.Reader, first, expected, limit int64) *problem.Problem {
	b := (*buffer)[:0]
	defer func() { *buffer = b }()
	if !f.share.fits(expected) || !f.share.grow(int64(cap(b))) {
		return errFull
	}
	first = max(first, minBodyBuffer)
	for {
		if size := int64(cap(b)); int64(len(b)) == size || size < first {
			room := 2 * size
			if size < expected {
				room = min(4*size, expected)
			}
			room = min(max(room, first), limit+1)
			if !f.share.grow(room) {
				return errFull
			}
			b = append(make([]byte, 0, room), b...)
		}
		n, err := source.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		exceeded := f.slot.Grow(int64(len(b)))
		switch {
		case int64(len(b)) > limit:
			return errTooLarge
		case exceeded != nil:
			return limitProblem(exceeded)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return bodyProblem(f.w, err)
		}
	}
}

// inflate replaces a zstd body, all of which is in a buffer, by what it holds. It
// isn't decoded as it comes in: a decoder sets aside the window that a frame's
// header asks for, often 8 MiB, for the smallest of bodies. So there are a few
// decoders, and none of them waits for a client.
func (f *Front) inflate(buffer *[]byte, filling *filling) *problem.Problem {
	sent := *buffer
	expected := int64(firstBuffer)
	var header zstd.Header
	if header.Decode(sent) == nil && header.HasFCS && header.FrameContentSize < 32*uint64(len(sent)) {
		expected = int64(header.FrameContentSize) + 1
	}
	decoder := <-f.zstd
	defer func() {
		_ = decoder.Reset(nil) // it lets go of the body
		f.zstd <- decoder
	}()
	if err := decoder.Reset(bytes.NewReader(sent)); err != nil {
		return bodyProblem(filling.w, compressionError(err))
	}
	*buffer = nil
	return filling.fill(buffer, compressedReader{decoder}, expected, expected, intake.MaxBodyBytes)
}

// newZstdDecoders makes as many as there are processors, and not more memory than
// a few of them need. A window is 8 MiB at most, the largest that a body may ask
// for (RFC 9659 §3).
func newZstdDecoders() (chan *zstd.Decoder, error) {
	decoders := make(chan *zstd.Decoder, min(runtime.GOMAXPROCS(0), 8))
	for range cap(decoders) {
		decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			return nil, err
		}
		decoders <- decoder
	}
	return decoders, nil
}

// bodies are buffers of bodies that were answered.
var bodies = sync.Pool{New: func() any { return new([]byte) }}

// putBody keeps a buffer for the next request, unless it is large: the next body
// may be small, and all of its buffer counts against the budget.
func putBody(buffer *[]byte) {
	if cap(*buffer) <= 128<<10 {
		bodies.Put(buffer)
	}
}

// checkContent reads what the body is said to be. What can be sent is told with
// the refusal (RFC 9110 §15.5.16).
func checkContent(w http.ResponseWriter, r *http.Request) (encoding string, refusal *problem.Problem) {
	if len(r.Header.Values("Content-Type")) > 1 {
		return "", &problem.Problem{Code: problem.BadContentType, Detail: "Content-Type must be given once"}
	}
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := params["charset"]
	if err != nil || mediaType != "application/json" || charset != "" && !strings.EqualFold(charset, "utf-8") {
		accept, detail := "application/json, "+ndjson, "send a batch with Content-Type: application/json, or a stream of them with "+ndjson
		if r.URL.Path == recordPath+"reconcile" {
			accept, detail = "application/json", "send the entries with Content-Type: application/json"
		}
		w.Header().Set("Accept", accept)
		return "", &problem.Problem{Code: problem.ContentType, Detail: detail}
	}
	return checkEncoding(w, r)
}

func checkEncoding(w http.ResponseWriter, r *http.Request) (encoding string, refusal *problem.Problem) {
	encoding = strings.ToLower(strings.TrimSpace(strings.Join(r.Header.Values("Content-Encoding"), ",")))
	switch encoding {
	case "", "identity":
		return "", nil
	case "gzip", "x-gzip":
		return "gzip", nil
	case "zstd":
		return "zstd", nil
	}
	w.Header().Set("Accept-Encoding", "gzip, zstd")
	return "", &problem.Problem{Code: problem.Encoding, Detail: "send the body plain, or with Content-Encoding: gzip or zstd"}
}

// errCompression marks a body that isn't what its Content-Encoding says.
var errCompression = errors.New("the body is not what Content-Encoding says")

// A compressedReader tells errors of the compression from those of the connection.
type compressedReader struct{ io.Reader }

func (r compressedReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		err = compressionError(err)
	}
	return n, err
}

func compressionError(err error) error {
	var connection *connectionError
	if errors.As(err, &connection) {
		return err
	}
	return fmt.Errorf("%w: %w", errCompression, err)
}

// A connectionError is one of reading what the client sends.
type connectionError struct{ error }

func (e *connectionError) Unwrap() error { return e.error }

// errTooLong says that more was sent than any batch needs.
var errTooLong = errors.New("the body is longer than any batch")

// errStopped says that the front's time to shut down is over.
var errStopped = errors.New("shutting down")

// A slowReader reads a body as it is sent, and gives up a client that is too
// slow, or all of them when base ends.
type slowReader struct {
	base       context.Context
	body       io.Reader
	controller *http.ResponseController
	began      time.Time
	count      int64
	due        int64 // the count at which the deadline is moved
}

func (r *slowReader) Read(b []byte) (int, error) {
	if r.count >= r.due {
		if err := r.controller.SetReadDeadline(r.began.Add(slowest(r.count))); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return 0, &connectionError{err}
		}
		r.due = r.count + 64<<10
	}
	if r.base.Err() != nil { // by now it may have set another deadline
		return 0, &connectionError{errStopped}
	}
	n, err := r.body.Read(b)
	r.count += int64(n)
	switch {
	case r.count > maxSentBytes:
		err = &connectionError{errTooLong}
	case err != nil && !errors.Is(err, io.EOF) && r.base.Err() != nil:
		err = &connectionError{errStopped}
	case err != nil && !errors.Is(err, io.EOF):
		err = &connectionError{err}
	}
	return n, err
}

func bodyProblem(w http.ResponseWriter, err error) *problem.Problem {
	w.Header().Set("Connection", "close")
	switch {
	case errors.Is(err, errTooLong):
		return &problem.Problem{Code: problem.BodyTooLarge, Detail: "the body is larger than 32 MiB"}
	case errors.Is(err, errStopped):
		return &problem.Problem{Code: problem.ShuttingDown, RetryAfter: time.Second, Detail: "shutting down; nothing of this request was saved or queued"}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &problem.Problem{Code: problem.BodyTooSlow, Detail: "the body came slower than 64 KiB a second"}
	case errors.Is(err, errCompression):
		return &problem.Problem{Code: problem.BadCompression, Detail: err.Error()}
	}
	return &problem.Problem{Code: problem.BodyIncomplete, Detail: "the body ended early"}
}
