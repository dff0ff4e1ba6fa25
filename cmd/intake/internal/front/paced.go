package front

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// slowest returns how long a client may take for this many bytes: 64 KiB a second after
// the first 15 s.
func slowest(bytes int64) time.Duration {
	const rate = 64 << 10
	return 15*time.Second + time.Duration(bytes)*time.Second/rate
}

var (
	// errTooLong is returned when more was sent than any batch needs.
	errTooLong = errors.New("the body is longer than any batch")
	// errStopped is returned when reading was interrupted.
	errStopped = errors.New("reading was interrupted")
	// errCompression is returned for a body that isn't what its Content-Encoding says.
	errCompression = errors.New("the body is not what Content-Encoding says")
)

// A pacedReader reads what a client sends, and fails if the client is too slow: a
// body, and a line of a stream, must come at the pace of slowest; between lines a client
// may send nothing for as long as silence. Errors other than io.EOF are connectionErrors.
//
// interrupt may be called concurrently with the other methods, those not with each other.
type pacedReader struct {
	body       io.Reader
	controller *http.ResponseController
	silence    time.Duration
	limit      int64     // bytes that may come; 0: any number
	began      time.Time // of the body or the line; zero between lines
	count      int64     // bytes since then

	stopped atomic.Bool
	mu      sync.Mutex
	ended   bool // guarded by mu
}

// startLine says that the next line may begin.
func (r *pacedReader) startLine() { r.began, r.count = time.Time{}, 0 }

// inLine says that the line has begun.
func (r *pacedReader) inLine() {
	if r.began.IsZero() {
		r.began = time.Now()
	}
}

// interrupt makes the read under way, and all later ones, fail with errStopped.
func (r *pacedReader) interrupt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	r.stopped.Store(true)
	_ = r.controller.SetReadDeadline(time.Unix(1, 0))
}

// end must be called when reading is over. Afterwards interrupt does nothing: over HTTP/2,
// setting a deadline panics once the handler has returned.
func (r *pacedReader) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
}

// Read implements io.Reader.
func (r *pacedReader) Read(b []byte) (int, error) {
	deadline := time.Now().Add(r.silence)
	if !r.began.IsZero() {
		deadline = r.began.Add(slowest(r.count))
	}
	if err := r.controller.SetReadDeadline(deadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, &connectionError{err}
	}
	if r.stopped.Load() { // it may have been before this deadline was set
		return 0, &connectionError{errStopped}
	}
	n, err := r.body.Read(b)
	r.count += int64(n)
	switch {
	case r.limit > 0 && r.count > r.limit:
		err = &connectionError{errTooLong}
	case err == nil || errors.Is(err, io.EOF):
	case r.stopped.Load():
		err = &connectionError{errStopped}
	default:
		err = &connectionError{err}
	}
	return n, err
}

// A connectionError is an error of reading what the client sends, not of unpacking it.
type connectionError struct{ error }

func (e *connectionError) Unwrap() error { return e.error }

// A compressedReader marks errors of the compression as errCompression.
type compressedReader struct{ io.Reader }

func (r compressedReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		err = compressionError(err)
	}
	return n, err
}

func compressionError(err error) error {
	if _, ok := errors.AsType[*connectionError](err); ok {
		return err
	}
	return fmt.Errorf("%w: %w", errCompression, err)
}
