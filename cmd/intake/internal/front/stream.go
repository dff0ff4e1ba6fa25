package front

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"time"

	"go.uber.org/zap"

	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/limit"
	"intake/cmd/intake/internal/problem"
)

// Bounds of a stream.
const (
	// streamBatches is how many batches of a stream are in flight. No more is read until
	// the first of them is answered, and the client has taken its answer.
	streamBatches = 8
	// streamSilence is how long nothing need come.
	streamSilence = time.Minute
	// streamAge is how long a stream may last.
	streamAge = 24 * time.Hour
	// tokenEvery is how often a stream's token and partner are checked again. With
	// auth.ReloadInterval, a change takes effect within the 5 s that are promised.
	tokenEvery = time.Second
	// streamBytes is what an open stream takes beside its lines: a buffer of lineBuffer,
	// and as much for gzip's window and the rest.
	streamBytes = 2 * lineBuffer
	lineBuffer  = 64 << 10
)

const ndjson = "application/x-ndjson"

func isStream(r *http.Request) bool {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && mediaType == ndjson && len(r.Header.Values("Content-Type")) == 1
}

// answerEarly lets a request be answered, or refused, before all of it is read. Its answer
// closes an HTTP/1 connection: what is left of the body must not be taken for another
// request, and net/http panics when the next one has come by then and reads its body
// (golang.org/issue/68560).
func (f *Front) answerEarly(w http.ResponseWriter) {
	if rec, ok := w.(*recorder); ok {
		rec.early = true
	}
	if err := http.NewResponseController(w).EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		f.opts.Logger.Debug("a stream's answers wait for its end", zap.Error(err))
	}
}

// A stream is a request of type application/x-ndjson, each line of which is a batch. Lines
// are read, processed and answered concurrently; the answers come in the order of the
// lines.
type stream struct {
	front  *Front
	w      http.ResponseWriter
	flush  func() error
	who    auth.Identity // who has opened it
	slot   *limit.Slot
	prefer preferences

	lines   *lineReader
	answers chan *streamed // in the order of the lines; closed when no more are read
	slots   chan struct{}  // has an entry for each batch in flight
	end     error          // why no more are read, if not because the client has ended it; set before answers is closed
}

// A streamed batch is a line of a stream on its way.
type streamed struct {
	*request
	done   chan struct{} // closed when object or err is set
	object *object
	err    error // why the line is refused; errBroken breaks the stream off
}

// stream is POST /api/v1/clients of a stream of batches.
func (f *Front) stream(w http.ResponseWriter, r *http.Request, who auth.Identity, key string) error {
	if key != "" {
		return problem.New(problem.KeyOnStream,
			"a stream takes no Idempotency-Key: send each batch of it as a request of its own, or again")
	}
	slot, exceeded := f.opts.Limiter.Open(r.Context(), &who.Partner)
	if exceeded != nil {
		return limitProblem(exceeded)
	}
	defer slot.Leave()
	lines, err := f.openLines(w, r, who)
	if err != nil {
		return err
	}
	defer lines.close()
	s := &stream{
		front: f, w: w, flush: http.NewResponseController(w).Flush, who: who, slot: slot,
		prefer: readPreferences(r.Header), lines: lines,
		answers: make(chan *streamed, streamBatches), slots: make(chan struct{}, streamBatches),
	}
	w.Header().Set("Content-Type", ndjson)
	w.Header().Set("Cache-Control", "no-store")
	if applied := s.prefer.appliedHeader(); applied != "" {
		w.Header().Set("Preference-Applied", applied)
	}
	w.WriteHeader(http.StatusOK)
	if err := s.flush(); err != nil {
		return errBroken // the client is gone
	}

	// The request's own context ends when reading does, for example at a shutdown. What is
	// in flight then is waited for.
	ctx, cancel := context.WithTimeout(baseOf(r), streamAge)
	defer cancel()
	go func() {
		defer close(s.answers)
		if s.end = s.read(ctx); errors.Is(s.end, errBrokenOff) {
			cancel()
		}
	}()
	if err := s.write(cancel); err != nil {
		return err
	}
	if end, ok := errors.AsType[*problem.Problem](s.end); ok {
		_ = limitWrite(w, 0)
		_, _ = w.Write(end.Line())
	}
	// The server still reads what is left of the body.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Second))
	return nil
}

// read reads lines and has them processed until the stream ends or must end, and returns
// why if the client has not ended it.
func (s *stream) read(ctx context.Context) error {
	wire := s.lines.wire
	defer wire.end()
	stop := context.AfterFunc(ctx, wire.interrupt)
	defer stop()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		if s.mustEnd(ended) {
			wire.interrupt()
		}
	}()
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		line := &streamed{request: s.front.newRequest(s.who.Partner, s.prefer), done: make(chan struct{})}
		line.isLine = true
		var end bool
		line.body, end, line.err = s.lines.next(ctx, line.memory)
		if end {
			line.memory.release()
			return line.err
		}
		s.front.metrics.bytes.Add(float64(len(line.body)))
		s.answers <- line
		go func() {
			defer close(line.done)
			if line.err == nil {
				line.object, line.err = s.process(ctx, line.request)
			}
		}()
	}
}

// mustEnd waits until a stream must end, because the front stops, or because its token or
// partner is no longer valid. It returns false when ended is closed.
func (s *stream) mustEnd(ended <-chan struct{}) bool {
	ticker := time.NewTicker(tokenEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if _, err := s.front.recheck(s.who); err != nil {
				return true
			}
		case <-s.front.closing:
			return true
		case <-ended:
			return false
		}
	}
}

// process processes the batch of a line, by what is known of its partner now.
func (s *stream) process(ctx context.Context, q *request) (o *object, err error) {
	f := s.front
	defer func() {
		// A panic must not take the process down. What became of the batch is not known.
		if cause := recover(); cause != nil {
			f.opts.Logger.Error("a batch of a stream caused a panic", zap.Any("cause", cause), zap.Stack("stack"))
			err = errBroken
		}
	}()
	if err := f.admitLine(ctx, &q.prefer); err != nil {
		return nil, err
	}
	bytes := int64(len(q.body))
	if q.Partner, err = f.enterLine(ctx, s.who, s.slot, bytes); err != nil {
		return nil, err
	}
	defer s.slot.Remove(bytes)
	if err := q.process(ctx); err != nil {
		return nil, err
	}
	if o = newObject(q.memory, q.Batch, q.queued, q.prefer.minimal); o.isMade() {
		q.body = nil
	}
	return o, nil
}

// write writes the answers as they come, and calls cancel when the stream is broken off.
// It waits for all that is in flight even then. Its error is errBroken, or nil.
func (s *stream) write(cancel func()) (err error) {
	gone := false // the client reads no more answers
	for line := range s.answers {
		select {
		case <-line.done:
		default:
			if !gone {
				_ = s.flush() // what is written need not wait for this line
			}
			<-line.done
		}
		if !gone {
			err = s.writeLine(line)
			if gone = err != nil; gone {
				cancel()
			}
		}
		line.memory.release()
		<-s.slots
	}
	return err
}

// writeLine writes the answer to a line. It returns errBroken if there is none, or if it
// can't be written.
func (s *stream) writeLine(line *streamed) error {
	if errors.Is(line.err, errBroken) {
		return errBroken
	}
	var err error
	if refusal, ok := errors.AsType[*problem.Problem](line.err); ok {
		if err = limitWrite(s.w, 0); err == nil {
			_, err = s.w.Write(refusal.Line())
		}
	} else {
		err = line.object.send(s.w)
	}
	if err == nil && len(s.answers) == 0 {
		err = s.flush()
	}
	if err != nil {
		s.front.opts.Logger.Debug("a stream's client is gone", zap.Error(err))
		return errBroken
	}
	return nil
}
