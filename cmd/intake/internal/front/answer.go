package front

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"intake"
)

// answer answers with what has become of the batch.
func (q *request) answer(w http.ResponseWriter) error {
	object := newObject(q.memory, q.Batch, q.queued, q.prefer.minimal)
	if object.isMade() {
		putBody(q.body)
	}
	if applied := q.prefer.appliedHeader(); applied != "" {
		w.Header().Set("Preference-Applied", applied)
	}
	q.usage.set(w.Header())
	if q.replayed {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	status := http.StatusOK
	if object.pending {
		status = http.StatusAccepted
		w.Header().Set("Location", statusPath+object.id.String())
	}
	return q.front.answerObject(w, object, status, q.Partner.Name)
}

// answerObject answers with an object. If the client doesn't take all of it, the connection
// must be broken off: half an answer must not look like a whole one.
func (f *Front) answerObject(w http.ResponseWriter, o *object, status int, partner string) error {
	if err := o.answer(w, status); err != nil {
		f.opts.Logger.Debug("cannot write an answer", zap.String("partner", partner), zap.Error(err))
		return errBroken
	}
	return nil
}

// limitWrite bounds the time for an answer of this many bytes: a client that reads it too
// slowly is broken off.
func limitWrite(w http.ResponseWriter, size int) error {
	err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(slowest(int64(size))))
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// answerPiece is how much of an answer is written and released at a time, in bytes.
const answerPiece = 32 << 10

var answerPieces = sync.Pool{New: func() any { return new([answerPiece]byte) }}

// An object is the contract's object for a batch, on its way to the client. It is made
// whole, so that the batch can be released, and its pieces are released as they are sent:
// a client that reads slowly holds no more than what is left to send. Only where there is
// no memory to make it, it is written from the batch.
type object struct {
	id      uuid.UUID
	pending bool
	size    int // exact where the object is made, else about what it is

	memory *memory
	pieces []*[answerPiece]byte
	render func(io.Writer) error // nil: the object is made
}

// newObject returns the object of a batch, with its items unless it is minimal; queued
// says whether it has a status to check. If the object could be made, memory then holds
// what the object takes, and the batch is empty.
func newObject(memory *memory, batch *intake.Batch, queued, minimal bool) *object {
	o := &object{id: batch.ID, memory: memory}
	for i := range batch.Verdicts {
		o.pending = o.pending || batch.Verdicts[i].Code == intake.CodePending
	}
	before := memory.held
	render := func(w io.Writer) error { return writeObject(w, batch, o.pending, queued, minimal) }
	if render(o) != nil {
		o.release()
		o.size, o.render = sizeOfObject(batch, minimal), render
		return o
	}
	batch.Items, batch.Verdicts = nil, nil
	memory.body = 0
	memory.giveBack(before)
	return o
}

// isMade reports whether the object needs nothing of its batch.
func (o *object) isMade() bool { return o.render == nil }

// answer answers with the object.
func (o *object) answer(w http.ResponseWriter, status int) error {
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	if o.isMade() {
		header.Set("Content-Length", strconv.Itoa(o.size))
	}
	w.WriteHeader(status)
	return o.send(w)
}

// send sends the object, as an answer's body or a line of it.
func (o *object) send(w http.ResponseWriter) error {
	if err := limitWrite(w, o.size); err != nil {
		return err
	}
	if !o.isMade() {
		buffered := bufio.NewWriterSize(w, answerPiece)
		if err := o.render(buffered); err != nil {
			return err
		}
		return buffered.Flush()
	}
	defer o.release()
	for left := o.size; left > 0; left -= answerPiece {
		if _, err := w.Write(o.pieces[0][:min(left, answerPiece)]); err != nil {
			return err
		}
		o.releasePiece()
	}
	return nil
}

func (o *object) release() {
	for len(o.pieces) > 0 {
		o.releasePiece()
	}
}

func (o *object) releasePiece() {
	answerPieces.Put(o.pieces[0])
	o.pieces[0] = nil
	o.pieces = o.pieces[1:]
	o.memory.giveBack(answerPiece)
}

var errNoPiece = errors.New("there is no room for another piece of the answer")

// Write adds to the object while it is made.
func (o *object) Write(b []byte) (int, error) {
	all := len(b)
	for len(b) > 0 {
		at := o.size % answerPiece
		if at == 0 {
			if !o.memory.addPiece() {
				return all - len(b), errNoPiece
			}
			o.pieces = append(o.pieces, answerPieces.Get().(*[answerPiece]byte))
		}
		n := copy(o.pieces[len(o.pieces)-1][at:], b)
		o.size += n
		b = b[n:]
	}
	return all, nil
}

// sizeOfObject returns about how large a batch's object is, in bytes.
func sizeOfObject(batch *intake.Batch, minimal bool) int {
	size := 256
	for i := range batch.Verdicts {
		size += 100 + len(batch.Verdicts[i].Text)
		if !minimal {
			size += len(batch.Items[i].Raw)
		}
	}
	return size
}

// writeObject writes the contract's object for a batch, with each item's text as it was
// sent, and ends the line.
func writeObject(w io.Writer, batch *intake.Batch, pending, queued, minimal bool) error {
	const part = 512 // bytes written at a time, beside the items
	state := intake.Completed
	if pending {
		state = intake.Pending
	}
	b := make([]byte, 0, 2*part)
	b = append(b, '{')
	if queued {
		id := batch.ID.String()
		b = append(b, `"status_check_id":"`+id+`","status_check_uri":"`+statusPath+id+`",`...)
	}
	b = append(b, `"status":"`+string(state)+`","result":[`...)
	for i := range batch.Items {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		if !minimal {
			b = append(b, `"data":`...)
			if _, err := w.Write(b); err != nil {
				return err
			}
			if _, err := w.Write(batch.Items[i].Raw); err != nil {
				return err
			}
			b = append(b[:0], ',')
		}
		b = appendStatus(b, &batch.Verdicts[i])
		b = append(b, '}')
		if len(b) >= part {
			if _, err := w.Write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	_, err := w.Write(append(b, "]}\n"...))
	return err
}

func appendStatus(b []byte, v *intake.Verdict) []byte {
	b = append(b, `"status":{"state":"`...)
	b = append(b, v.Code.State()...)
	b = append(b, `","code":"`...)
	b = append(b, v.Code.String()...)
	b = append(b, `","validation_errors":`...)
	b = appendString(b, v.Text)
	return append(b, '}')
}

// appendString appends a JSON string (RFC 8259 §7).
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	begin := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(append(b, s[begin:i]...), "\ufffd"...)
				begin = i + 1
			}
			i += n
			continue
		}
		if c < ' ' || c == '"' || c == '\\' {
			b = append(b, s[begin:i]...)
			if c < ' ' {
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			} else {
				b = append(b, '\\', c)
			}
			begin = i + 1
		}
		i++
	}
	return append(append(b, s[begin:]...), '"')
}
