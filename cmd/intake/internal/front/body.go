package front

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"intake"
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

// readBody reads a batch's text, within the budget and not for ever. The buffer
// is of bodies and goes back there.
func (f *Front) readBody(w http.ResponseWriter, r *http.Request, share *share) (*[]byte, *problem) {
	encoding, refusal := checkContent(w, r)
	if refusal != nil {
		return nil, refusal
	}
	if r.ContentLength > maxSentBytes || encoding == "" && r.ContentLength > intake.MaxBodyBytes {
		return nil, &problem{status: http.StatusRequestEntityTooLarge, detail: "the body is larger than 32 MiB"}
	}
	controller := http.NewResponseController(w)
	source := &slowReader{body: r.Body, controller: controller, began: time.Now()}
	defer controller.SetReadDeadline(time.Time{})
	plain, done, err := decompress(encoding, source)
	if err != nil {
		return nil, bodyProblem(w, err)
	}
	defer done()
	buffer := bodies.Get().(*[]byte)
	expected := int64(64 << 10)
	if encoding == "" && r.ContentLength >= 0 {
		expected = r.ContentLength + 1 // one more, to see the end
	}
	refusal = fill(buffer, plain, expected, share, w)
	if refusal != nil {
		putBody(buffer)
		return nil, refusal
	}
	f.metrics.bytes.Add(float64(len(*buffer)))
	return buffer, nil
}

// fill reads all of a body into a buffer, which has room for what is expected
// and grows by doubling, each time within the budget.
func fill(buffer *[]byte, plain io.Reader, expected int64, share *share, w http.ResponseWriter) *problem {
	b := (*buffer)[:0]
	defer func() { *buffer = b }()
	for {
		if len(b) == cap(b) || int64(cap(b)) < expected {
			room := max(expected, int64(cap(b))*2)
			if !share.grow(room) {
				return &problem{status: http.StatusServiceUnavailable, retryAfter: time.Second, detail: "other requests take all the memory there is; nothing of this one was saved or queued"}
			}
			b = append(make([]byte, 0, room), b...)
			expected = 0
		} else if !share.grow(int64(cap(b))) {
			return &problem{status: http.StatusServiceUnavailable, retryAfter: time.Second, detail: "other requests take all the memory there is; nothing of this one was saved or queued"}
		}
		n, err := plain.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case len(b) > intake.MaxBodyBytes:
			return &problem{status: http.StatusRequestEntityTooLarge, detail: "the body is larger than 32 MiB after decompression"}
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return bodyProblem(w, err)
		}
	}
}

// bodies are buffers of bodies that were answered.
var bodies = sync.Pool{New: func() any { return new([]byte) }}

// putBody keeps a buffer for the next request, unless it is one of the few large
// ones.
func putBody(buffer *[]byte) {
	if cap(*buffer) <= 4<<20 {
		bodies.Put(buffer)
	}
}

// checkContent reads what the body is said to be. What can be sent is told with
// the refusal (RFC 9110 §15.5.16).
func checkContent(w http.ResponseWriter, r *http.Request) (encoding string, refusal *problem) {
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := params["charset"]
	if err != nil || mediaType != "application/json" || charset != "" && !strings.EqualFold(charset, "utf-8") {
		w.Header().Set("Accept-Post", "application/json")
		return "", &problem{status: http.StatusUnsupportedMediaType, detail: "send a batch with Content-Type: application/json"}
	}
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
	return "", &problem{status: http.StatusUnsupportedMediaType, detail: "send the body plain, or with Content-Encoding: gzip or zstd"}
}

// errCompression marks a body that isn't what its Content-Encoding says.
var errCompression = errors.New("the body is not what Content-Encoding says")

func decompress(encoding string, source io.Reader) (plain io.Reader, done func(), err error) {
	done = func() {}
	switch encoding {
	case "gzip":
		decoder, err := gzip.NewReader(source)
		if err != nil {
			return nil, nil, compressionError(err)
		}
		return compressedReader{decoder}, done, nil
	case "zstd":
		decoder := zstdDecoders.Get().(*zstd.Decoder)
		if err := decoder.Reset(source); err != nil {
			return nil, nil, compressionError(err)
		}
		return compressedReader{decoder}, func() {
			if decoder.Reset(nil) == nil {
				zstdDecoders.Put(decoder)
			}
		}, nil
	}
	return source, done, nil
}

// zstdDecoders need memory for a frame's window: no larger than a body may be,
// and the 8 MiB that every decoder should have (RFC 8878 §3.1.1.1.2) are enough.
var zstdDecoders = sync.Pool{New: func() any {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(err) // the options are constant
	}
	return decoder
}}

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

// A slowReader reads a body as it is sent, and gives up a client that is too
// slow.
type slowReader struct {
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
	n, err := r.body.Read(b)
	r.count += int64(n)
	switch {
	case r.count > maxSentBytes:
		err = &connectionError{errTooLong}
	case err != nil && !errors.Is(err, io.EOF):
		err = &connectionError{err}
	}
	return n, err
}

func bodyProblem(w http.ResponseWriter, err error) *problem {
	w.Header().Set("Connection", "close")
	switch {
	case errors.Is(err, errTooLong):
		return &problem{status: http.StatusRequestEntityTooLarge, detail: "the body is larger than 32 MiB"}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &problem{status: http.StatusRequestTimeout, detail: "the body came slower than 64 KiB a second"}
	case errors.Is(err, errCompression):
		return &problem{status: http.StatusBadRequest, detail: err.Error()}
	}
	return &problem{status: http.StatusBadRequest, detail: "the body ended early"}
}
