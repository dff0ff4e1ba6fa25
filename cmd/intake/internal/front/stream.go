package front

import (
	"bufio"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/zap"

	"intake"
	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/limit"
	"intake/cmd/intake/internal/problem"
)

// Bounds of a stream.
const (
	// streamBatches is how many batches of a stream are in flight. No more is read
	// until the first of them is answered, and its answer was taken.
	streamBatches = 8
	// streamSilence is how long nothing need come.
	streamSilence = time.Minute
	// streamAge is how long a stream may last.
	streamAge = 24 * time.Hour
	// tokenEvery is how often it is asked whether a stream's token still lets its
	// partner in: with directoryEvery, within the 5 s that are promised.
	tokenEvery = time.Second
	// streamBytes is what an open stream takes beside its lines: a buffer of
	// lineBuffer, and as much for gzip's window and the rest.
	streamBytes = 2 * lineBuffer
	lineBuffer  = 64 << 10
	// zstdWindow is the largest window that a stream may ask for (RFC 9659 §3). A
	// decoder takes twice as much.
	zstdWindow = 8 << 20
)

const ndjson = "application/x-ndjson"

func isStream(r *http.Request) bool {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && mediaType == ndjson && len(r.Header.Values("Content-Type")) == 1
}

// answerEarly lets a request be answered, or refused, before all of it is read.
func (f *Front) answerEarly(w http.ResponseWriter) {
	if err := http.NewResponseController(w).EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		f.opts.Logger.Debug("a stream's answers wait for its end", zap.Error(err))
	}
}

// A streamed batch is a line of a stream on its way.
type streamed struct {
	share   *share
	body    []byte
	done    chan struct{} // closed when the rest is there
	object  *object
	refusal *problem.Problem
	broken  bool // no answer is true: see queue.ErrUncertain
}

// stream is POST /api/v1/clients of a stream of batches. Lines are read, taken in
// and answered at the same time; the answers come in the order of the lines.
func (f *Front) stream(w http.ResponseWriter, r *http.Request, who auth.Identity, key string) {
	if key != "" {
		(&problem.Problem{Code: problem.KeyOnStream, Detail: "a stream takes no Idempotency-Key: send each batch of it as a request of its own, or again"}).Write(w)
		return
	}
	slot, exceeded := f.opts.Limiter.Open(r.Context(), &who.Partner)
	if exceeded != nil {
		limitProblem(exceeded).Write(w)
		return
	}
	defer slot.Leave()
	lines, refusal := f.openStream(w, r, who)
	if refusal != nil {
		refusal.Write(w)
		return
	}
	defer lines.close()
	controller := http.NewResponseController(w)
	w.Header().Set("Content-Type", ndjson)
	w.Header().Set("Cache-Control", "no-store")
	prefer := readPreferences(r.Header)
	if len(prefer.applied) > 0 {
		w.Header().Set("Preference-Applied", strings.Join(prefer.applied, ", "))
	}
	w.WriteHeader(http.StatusOK)
	if err := controller.Flush(); err != nil {
		return
	}

	// The request's own context ends when reading does, at a shutdown for one. What
	// is in flight then is waited for.
	ctx, cancel := context.WithTimeout(baseOf(r), streamAge)
	defer cancel()
	answers := make(chan *streamed, streamBatches) // in the order of the lines
	slots := make(chan struct{}, streamBatches)    // has an entry for each batch in flight
	last := make(chan *problem.Problem, 1)         // why the stream ends, if not at the client's end of it
	go func() {
		defer close(answers)
		end := f.readStream(ctx, lines, slots, func(s *streamed) {
			answers <- s
			go f.takeLine(ctx, who, slot, s, prefer)
		})
		if end == errBrokenOff {
			cancel()
		}
		last <- end
	}()
	f.writeStream(w, controller, answers, slots, cancel)
	if end := <-last; end != nil {
		_ = limitWrite(w, 0)
		_, _ = w.Write(end.Line())
	}
}

// readStream reads lines until the stream ends or must end, and tells why.
func (f *Front) readStream(ctx context.Context, lines *lineReader, slots chan<- struct{}, take func(*streamed)) *problem.Problem {
	defer lines.wire.end()
	stop := context.AfterFunc(ctx, lines.wire.interrupt)
	defer stop()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		if f.mustEnd(lines.who, ended) {
			lines.wire.interrupt()
		}
	}()
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		s := &streamed{share: f.budget.share(lines.share.partner), done: make(chan struct{})}
		end := false
		s.body, s.refusal, end = lines.next(ctx, s.share)
		switch {
		case end:
			s.share.release()
			return s.refusal
		case s.refusal != nil:
			close(s.done)
		}
		f.metrics.bytes.Add(float64(len(s.body)))
		take(s)
	}
}

// mustEnd waits until a stream must end, because the front stops or the token that
// it was opened with lets nobody in any more. It returns false when it has ended.
func (f *Front) mustEnd(who auth.Identity, ended <-chan struct{}) bool {
	ticker := time.NewTicker(tokenEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if _, err := f.opts.Auth.Recheck(who); err != nil {
				return true
			}
		case <-f.closing:
			return true
		case <-ended:
			return false
		}
	}
}

// takeLine takes the batch of a line in, by what is known of its partner now.
func (f *Front) takeLine(ctx context.Context, who auth.Identity, slot *limit.Slot, s *streamed, prefer preferences) {
	if s.refusal != nil {
		return
	}
	defer close(s.done)
	defer func() {
		// A request would be broken off; so is the stream.
		if cause := recover(); cause != nil {
			s.broken = true
			if cause != http.ErrAbortHandler {
				f.opts.Logger.Error("a batch of a stream caused a panic", zap.Any("cause", cause), zap.Stack("stack"))
			}
		}
	}()
	if s.refusal = f.admitLine(ctx, &prefer); s.refusal != nil {
		return
	}
	bytes := int64(len(s.body))
	partner, refusal := f.enterLine(ctx, who, slot, bytes)
	if s.refusal = refusal; refusal != nil {
		return
	}
	defer slot.Remove(bytes)
	request, answer, refusal := f.take(ctx, &incoming{partner: partner, body: s.body, share: s.share, prefer: prefer, line: true})
	if s.refusal = refusal; refusal != nil {
		return
	}
	if s.object = newObject(s.share, request.Batch, answer.queued, answer.minimal); s.object.isMade() {
		s.body = nil
	}
}

// writeStream writes the answers as they come. When the client is gone it still
// waits for what is in flight.
func (f *Front) writeStream(w http.ResponseWriter, controller *http.ResponseController, answers <-chan *streamed, slots <-chan struct{}, cancel func()) {
	gone, broken := false, false
	for s := range answers {
		select {
		case <-s.done:
		default:
			if !gone {
				_ = controller.Flush() // what is written need not wait for this one
			}
			<-s.done
		}
		if s.broken && !gone {
			cancel()
			gone, broken = true, true
		}
		if !gone {
			var err error
			if s.refusal != nil {
				if err = limitWrite(w, 0); err == nil {
					_, err = w.Write(s.refusal.Line())
				}
			} else {
				err = s.object.send(w)
			}
			if err == nil && len(answers) == 0 {
				err = controller.Flush()
			}
			if err != nil {
				f.opts.Logger.Debug("a stream's client is gone", zap.Error(err))
				gone = true
				cancel()
			}
		}
		s.share.release()
		<-slots
	}
	if broken {
		panic(http.ErrAbortHandler)
	}
}

// A lineReader reads the lines of a stream.
type lineReader struct {
	front   *Front
	source  *bufio.Reader
	wire    *streamReader // what source reads from in the end
	decoder io.Closer
	share   *share        // of the stream's being open
	who     auth.Identity // who has opened it
}

// openStream reads what a stream is said to be.
func (f *Front) openStream(w http.ResponseWriter, r *http.Request, who auth.Identity) (*lineReader, *problem.Problem) {
	encoding, refusal := checkEncoding(w, r)
	if refusal != nil {
		return nil, refusal
	}
	l := &lineReader{
		front: f, share: f.budget.share(who.Partner.ID), who: who,
		wire: &streamReader{body: r.Body, controller: http.NewResponseController(w), silence: f.streamSilence},
	}
	bytes := int64(streamBytes)
	if encoding == "zstd" {
		bytes += 2 * zstdWindow
	}
	if !l.share.openStream(bytes) {
		return nil, f.full()
	}
	var source io.Reader = l.wire
	switch encoding {
	case "gzip":
		source = &lateGzip{source: source}
	case "zstd":
		decoder, err := zstd.NewReader(source, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			l.share.release()
			return nil, bodyProblem(w, compressionError(err))
		}
		l.decoder = decoder.IOReadCloser()
		source = compressedReader{decoder}
	}
	l.source = bufio.NewReaderSize(source, lineBuffer)
	return l, nil
}

func (l *lineReader) close() {
	if l.decoder != nil {
		l.decoder.Close()
	}
	l.share.release()
}

// next reads a line that isn't blank. end says that there is none, and the
// refusal why, if that is not because the client has ended the stream. Another
// refusal is of the line, and the stream goes on.
func (l *lineReader) next(ctx context.Context, share *share) (line []byte, refusal *problem.Problem, end bool) {
	l.wire.startLine()
	for {
		piece, err := l.source.ReadSlice('\n')
		if len(piece) > 0 && !(len(line) == 0 && isBlank(piece)) {
			l.wire.inLine()
			switch {
			case refusal != nil:
			case len(line)+len(piece) > intake.MaxBodyBytes+1:
				refusal, line = &problem.Problem{Code: problem.BodyTooLarge, Detail: "the line is longer than 32 MiB"}, nil
			case !waitRoom(ctx, func() bool { return share.grow(int64(max(2*cap(line), len(line)+len(piece), minBodyBuffer))) }):
				refusal, line = &problem.Problem{Code: problem.NoMemory, RetryAfter: time.Second, Detail: errFull.Detail}, nil
			default:
				line = append(line, piece...)
			}
		}
		switch {
		case err == nil && (len(line) > 0 || refusal != nil):
			return line, refusal, false
		case err == nil: // a blank line, which says that the client is still there
			l.wire.startLine()
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && (len(line) > 0 || refusal != nil):
			return line, refusal, false
		case errors.Is(err, io.EOF):
			return nil, nil, true
		default:
			return nil, l.endOf(ctx, err), true
		}
	}
}

// endOf says why a stream is ended that its client has not ended.
func (l *lineReader) endOf(ctx context.Context, err error) *problem.Problem {
	switch {
	case l.front.isClosing():
		return &problem.Problem{Code: problem.ShuttingDown, Detail: "shutting down; all lines before this one are answered, send the others again"}
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &problem.Problem{Code: problem.StreamTooOld, Detail: "the stream is older than " + streamAge.String() + "; go on with another one"}
	case l.wire.stopped.Load():
		_, refusal := l.front.recheck(l.who)
		return refusal
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &problem.Problem{Code: problem.StreamTooSlow, Detail: "nothing came for " + l.wire.silence.String() + ", or a line slower than 64 KiB a second"}
	case errors.Is(err, errCompression):
		return &problem.Problem{Code: problem.BadCompression, Detail: err.Error()}
	}
	return errBrokenOff
}

// errBrokenOff is of a stream whose client is gone.
var errBrokenOff = &problem.Problem{Code: problem.BodyIncomplete, Detail: "the body ended early; a line that was begun is not taken in"}

func isBlank(line []byte) bool {
	for _, c := range line {
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return false
		}
	}
	return true
}

// A streamReader reads a stream as it is sent, and gives up a client that is
// silent, or too slow within a line.
type streamReader struct {
	body       io.Reader
	controller *http.ResponseController
	silence    time.Duration
	stopped    atomic.Bool
	began      time.Time // of the line; zero between lines
	count      int64     // bytes since then

	mu    sync.Mutex
	ended bool // guarded by mu
}

func (r *streamReader) startLine() { r.began, r.count = time.Time{}, 0 }

func (r *streamReader) inLine() {
	if r.began.IsZero() {
		r.began = time.Now()
	}
}

// interrupt ends a read that is under way, and all others. After end it does nothing.
func (r *streamReader) interrupt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	r.stopped.Store(true)
	_ = r.controller.SetReadDeadline(time.Unix(1, 0))
}

// end is called when nothing is read any more. Over HTTP/2, setting a deadline panics
// once the handler has returned.
func (r *streamReader) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
}

// Read implements io.Reader.
func (r *streamReader) Read(b []byte) (int, error) {
	deadline := time.Now().Add(r.silence)
	if !r.began.IsZero() {
		deadline = r.began.Add(slowest(r.count))
	}
	if err := r.controller.SetReadDeadline(deadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, &connectionError{err}
	}
	if r.stopped.Load() {
		return 0, &connectionError{os.ErrDeadlineExceeded}
	}
	n, err := r.body.Read(b)
	r.count += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &connectionError{err}
	}
	return n, err
}

// A lateGzip begins to read when it is read: a stream is open before its first
// bytes are there.
type lateGzip struct {
	source io.Reader
	reader *gzip.Reader
}

func (g *lateGzip) Read(b []byte) (n int, err error) {
	if g.reader == nil {
		if g.reader, err = gzip.NewReader(g.source); err != nil {
			g.reader = nil
			if errors.Is(err, io.EOF) {
				return 0, io.EOF
			}
			return 0, compressionError(err)
		}
	}
	return compressedReader{g.reader}.Read(b)
}
