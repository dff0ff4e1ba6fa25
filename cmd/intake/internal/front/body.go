package front

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/bits"
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

// maxSentBytes bounds a compressed body as it is sent. It is above what the largest batch
// takes if it can't be compressed.
const maxSentBytes = intake.MaxBodyBytes + 1<<20

// readBody reads a batch's text, within memory and what its partner may have in flight.
// The buffer may be given to putBody.
func (f *Front) readBody(w http.ResponseWriter, r *http.Request, memory *memory, slot *limit.Slot) ([]byte, error) {
	encoding, err := checkContent(r)
	if err != nil {
		return nil, err
	}
	if r.ContentLength > maxSentBytes || encoding == "" && r.ContentLength > intake.MaxBodyBytes {
		return nil, errBodyTooLarge
	}
	controller := http.NewResponseController(w)
	paced := &pacedReader{body: r.Body, controller: controller, limit: maxSentBytes, began: time.Now()}
	defer paced.end()
	stop := context.AfterFunc(baseOf(r), paced.interrupt)
	defer stop()
	var source io.Reader = paced
	limit := int64(intake.MaxBodyBytes)
	switch encoding {
	case "gzip":
		decoder, err := gzip.NewReader(source)
		if err != nil {
			return nil, bodyProblem(compressionError(err))
		}
		source = compressedReader{decoder}
	case "zstd":
		limit = maxSentBytes
	}
	expected := int64(firstBuffer)
	if encoding != "gzip" && r.ContentLength >= 0 {
		expected = r.ContentLength + 1 // one more, to see the end
	}
	filling := &filling{front: f, memory: memory, slot: slot}
	err = filling.fill(source, min(expected, firstBuffer), expected, limit)
	if err == nil && encoding == "zstd" {
		err = f.inflate(filling)
	}
	if err != nil {
		putBody(filling.buffer)
		return nil, err
	}
	// From here on the client only waits. After a refusal the deadline stays: the server
	// reads on for a while, and the rest of the body must come in time.
	paced.end()
	_ = controller.SetReadDeadline(time.Time{})
	f.metrics.bytes.Add(float64(len(filling.buffer)))
	return filling.buffer, nil
}

const (
	// minBodyBuffer is the least that is set aside for a body, in bytes: a request needs
	// memory even if its body is small.
	minBodyBuffer = 16 << 10
	// firstBuffer is the most that is set aside for a body of which nothing has come yet,
	// whatever its length is said to be.
	firstBuffer = 64 << 10
)

var (
	errBodyTooLarge = problem.New(problem.BodyTooLarge, "the body is larger than 32 MiB")
	errTooLarge     = problem.New(problem.BodyTooLarge, "the body is larger than 32 MiB after decompression")
)

// A filling is a body that is being read.
type filling struct {
	front  *Front
	memory *memory
	slot   *limit.Slot
	buffer []byte
}

// fill reads all of a body, up to a limit, into the buffer. The buffer has room for first
// bytes to begin with and grows with what comes: up to what is expected in steps of four,
// and then by doubling, each time within memory. What is expected and doesn't fit is
// refused immediately. What has come, unpacked, counts for the partner's bytes in flight.
func (f *filling) fill(source io.Reader, first, expected, limit int64) error {
	b := f.buffer
	defer func() { f.buffer = b }()
	if !f.memory.fits(expected) {
		return f.front.full()
	}
	first = max(first, minBodyBuffer)
	for {
		if size := int64(cap(b)); int64(len(b)) == size || size < first {
			room := 2 * size
			if size < expected {
				room = min(4*size, expected)
			}
			_, room = sizeClass(max(room, first))
			room = min(room, limit+1)
			if !f.memory.grow(room) {
				return f.front.full()
			}
			larger := append(newBody(room), b...)
			putBody(b)
			b = larger
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
			return bodyProblem(err)
		}
	}
}

// inflate replaces a zstd body by what it holds. The body is not decoded as it comes in:
// a decoder allocates the window that a frame's header asks for, often 8 MiB, for the
// smallest of bodies. So there are a few decoders, and none of them waits for a client.
func (f *Front) inflate(filling *filling) error {
	sent := filling.buffer
	filling.buffer = nil
	expected := int64(firstBuffer)
	var header zstd.Header
	if header.Decode(sent) == nil && header.HasFCS && header.FrameContentSize < 32*uint64(len(sent)) {
		expected = int64(header.FrameContentSize) + 1
	}
	decoder := <-f.zstd
	defer func() {
		_ = decoder.Reset(nil) // it lets go of the body
		f.zstd <- decoder
		putBody(sent)
	}()
	if err := decoder.Reset(bytes.NewReader(sent)); err != nil {
		return bodyProblem(compressionError(err))
	}
	return filling.fill(compressedReader{decoder}, expected, expected, intake.MaxBodyBytes)
}

// newZstdDecoders returns as many decoders as there are processors, but at most 8, which
// bounds their memory. A window is at most 8 MiB, the largest that a body may ask for (RFC
// 9659 §3).
func newZstdDecoders() (chan *zstd.Decoder, error) {
	decoders := make(chan *zstd.Decoder, min(runtime.GOMAXPROCS(0), 8))
	for range cap(decoders) {
		decoder, err := newZstdDecoder(nil)
		if err != nil {
			return nil, err
		}
		decoders <- decoder
	}
	return decoders, nil
}

// zstdWindow is the largest window that a body or a stream may ask for (RFC 9659 §3), in
// bytes. A decoder takes twice as much.
const zstdWindow = 8 << 20

func newZstdDecoder(source io.Reader) (*zstd.Decoder, error) {
	return zstd.NewReader(source, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(zstdWindow))
}

// bodies are buffers of bodies that were answered, by the class of their size. Without
// them, the garbage collector would find and clear room for each body anew.
var bodies [8 * 24]sync.Pool

// sizeClass returns the class of buffers for n bytes, and their size. There are 8 sizes from
// a power of two to the next one, so that at most an eighth is left over: all of a buffer
// counts against the budget.
func sizeClass(n int64) (class int, size int64) {
	shift := max(bits.Len64(uint64(n-1)), 4) - 4
	steps := (n + 1<<shift - 1) >> shift // 8 to 16
	return 8*shift + int(steps) - 8, steps << shift
}

// newBody returns a buffer of this size.
func newBody(size int64) []byte {
	class, inClass := sizeClass(size)
	if inClass == size {
		if buffer, ok := bodies[class].Get().(*[]byte); ok {
			return (*buffer)[:0]
		}
	}
	return make([]byte, 0, size)
}

// putBody keeps a buffer for another body, if it has the size of a class.
func putBody(buffer []byte) {
	if cap(buffer) == 0 {
		return
	}
	if class, size := sizeClass(int64(cap(buffer))); size == int64(cap(buffer)) {
		bodies[class].Put(&buffer)
	}
}

// checkContent returns the encoding of a batch. A refusal says what can be sent (RFC 9110
// §15.5.16).
func checkContent(r *http.Request) (encoding string, err error) {
	if len(r.Header.Values("Content-Type")) > 1 {
		return "", problem.New(problem.BadContentType, "Content-Type must be given once")
	}
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := params["charset"]
	if err != nil || mediaType != "application/json" || charset != "" && !strings.EqualFold(charset, "utf-8") {
		accept := "application/json, " + ndjson
		detail := "send a batch with Content-Type: application/json, or a stream of them with " + ndjson
		if r.URL.Path == reconcilePath {
			accept, detail = "application/json", "send the entries with Content-Type: application/json"
		}
		return "", problem.New(problem.ContentType, "%s", detail).With("Accept", accept)
	}
	return checkEncoding(r)
}

func checkEncoding(r *http.Request) (encoding string, err error) {
	encoding = strings.ToLower(strings.TrimSpace(strings.Join(r.Header.Values("Content-Encoding"), ",")))
	switch encoding {
	case "", "identity":
		return "", nil
	case "gzip", "x-gzip":
		return "gzip", nil
	case "zstd":
		return "zstd", nil
	}
	return "", problem.New(problem.Encoding, "send the body plain, or with Content-Encoding: gzip or zstd").
		With("Accept-Encoding", "gzip, zstd")
}

// bodyProblem returns the problem that a body can't be read. The connection can't be used
// again, as the rest of the body is on its way.
func bodyProblem(err error) *problem.Problem {
	p := problem.New(problem.BodyIncomplete, "the body ended early")
	switch {
	case errors.Is(err, errTooLong):
		p = errBodyTooLarge
	case errors.Is(err, errStopped):
		p = problem.New(problem.ShuttingDown,
			"shutting down; nothing of this request was saved or queued").After(time.Second)
	case errors.Is(err, os.ErrDeadlineExceeded):
		p = problem.New(problem.BodyTooSlow, "the body came slower than 64 KiB a second")
	case errors.Is(err, errCompression):
		p = problem.New(problem.BadCompression, "%s", err)
	}
	return p.With("Connection", "close")
}
