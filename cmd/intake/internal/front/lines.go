package front

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"os"

	"github.com/klauspost/compress/gzip"

	"intake"
	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/problem"
)

// A lineReader reads the lines of a stream.
type lineReader struct {
	front   *Front
	source  *bufio.Reader
	wire    *pacedReader // what source reads from in the end
	decoder io.Closer    // may be nil
	memory  *memory      // for the stream to be open
	who     auth.Identity
}

// openLines returns a reader of a stream's lines, which must be closed.
func (f *Front) openLines(w http.ResponseWriter, r *http.Request, who auth.Identity) (*lineReader, error) {
	encoding, err := checkEncoding(r)
	if err != nil {
		return nil, err
	}
	l := &lineReader{
		front: f, memory: f.budget.memoryOf(who.Partner.ID), who: who,
		wire: &pacedReader{body: r.Body, controller: http.NewResponseController(w), silence: f.streamSilence},
	}
	bytes := int64(streamBytes)
	if encoding == "zstd" {
		bytes += 2 * zstdWindow
	}
	if !l.memory.openStream(bytes) {
		return nil, f.full()
	}
	var source io.Reader = l.wire
	switch encoding {
	case "gzip":
		source = &lateGzip{source: source}
	case "zstd":
		decoder, err := newZstdDecoder(source)
		if err != nil {
			l.memory.release()
			return nil, bodyProblem(compressionError(err))
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
	l.memory.release()
}

// next returns the next line that isn't blank. If end is true there is none, and err is why,
// nil if the client has ended the stream. Otherwise err refuses the line, and the stream
// goes on.
func (l *lineReader) next(ctx context.Context, memory *memory) (line []byte, end bool, err error) {
	l.wire.startLine()
	var refusal error
	for {
		piece, err := l.source.ReadSlice('\n')
		if len(piece) > 0 && !(len(line) == 0 && isBlank(piece)) {
			l.wire.inLine()
			if refusal == nil {
				line, refusal = l.appendTo(ctx, line, piece, memory)
			}
		}
		begun := len(line) > 0 || refusal != nil
		switch {
		case err == nil && begun:
			return line, false, refusal
		case err == nil: // a blank line, which says that the client is still there
			l.wire.startLine()
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && begun:
			return line, false, refusal
		case errors.Is(err, io.EOF):
			return nil, true, nil
		default:
			return nil, true, l.endOf(ctx, err)
		}
	}
}

// appendTo appends a piece to a line, within memory. It returns no line if it refuses.
func (l *lineReader) appendTo(ctx context.Context, line, piece []byte, memory *memory) ([]byte, error) {
	if len(line)+len(piece) > intake.MaxBodyBytes+1 {
		return nil, problem.New(problem.BodyTooLarge, "the line is longer than 32 MiB")
	}
	room := int64(max(2*cap(line), len(line)+len(piece), minBodyBuffer))
	if !waitRoom(ctx, func() bool { return memory.grow(room) }) {
		return nil, l.front.full()
	}
	return append(line, piece...), nil
}

// errBrokenOff is of a stream whose client is gone.
var errBrokenOff = problem.New(problem.BodyIncomplete, "the body ended early; a line that was begun is not taken in")

// endOf returns why a stream ends that its client has not ended, nil if it is answered no
// more.
func (l *lineReader) endOf(ctx context.Context, err error) error {
	switch {
	case l.front.isClosing():
		return problem.New(problem.ShuttingDown,
			"shutting down; all lines before this one are answered, send the others again")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return problem.New(problem.StreamTooOld, "the stream is older than %s; go on with another one", streamAge)
	case l.wire.stopped.Load():
		_, err := l.front.recheck(l.who)
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return problem.New(problem.StreamTooSlow,
			"nothing came for %s, or a line slower than 64 KiB a second", l.wire.silence)
	case errors.Is(err, errCompression):
		return problem.New(problem.BadCompression, "%s", err)
	}
	return errBrokenOff
}

func isBlank(line []byte) bool {
	for _, c := range line {
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return false
		}
	}
	return true
}

// A lateGzip begins to read when it is read: a stream is open before its first bytes are
// there.
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
