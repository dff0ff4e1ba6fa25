package front

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"

	"intake"
)

// answers are written from buffers that are used again; no larger than this.
const answerBuffer = 64 << 10

var answerBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, answerBuffer+16<<10)
	return &b
}}

// statusPath is where to ask how a batch ended.
const statusPath = "/api/v1/clients/status/"

// An answer is how a batch is answered.
type answer struct {
	queued   bool   // it has a status to check
	minimal  bool   // without data
	applied  string // the preferences that were honoured
	replayed bool   // it was given before
	usage    *usage // of the partner's rate
}

// writeAnswer answers a request that has sent a batch.
func writeAnswer(w http.ResponseWriter, batch *intake.Batch, a *answer) error {
	if a.applied != "" {
		w.Header().Set("Preference-Applied", a.applied)
	}
	a.usage.set(w.Header())
	if a.replayed {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	status := http.StatusOK
	for i := range batch.Verdicts {
		if batch.Verdicts[i].Code == intake.CodePending {
			status = http.StatusAccepted
		}
	}
	if status == http.StatusAccepted {
		w.Header().Set("Location", statusPath+batch.ID.String())
	}
	return writeBatch(w, status, batch, a.queued, a.minimal)
}

// writeBatch answers with the contract's object for a batch.
func writeBatch(w http.ResponseWriter, status int, batch *intake.Batch, queued, minimal bool) error {
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if err := limitWrite(w, sizeOfObject(batch, minimal)); err != nil {
		return err
	}
	return writeObject(w, batch, queued, minimal)
}

// limitWrite bounds the time for an answer of so many bytes: a client that takes
// it slower is not waited for.
func limitWrite(w http.ResponseWriter, size int) error {
	err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(slowest(int64(size))))
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// sizeOfObject is about how large a batch's object is.
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

// writeObject writes the contract's object for a batch, each item's text as it was
// sent, and ends the line. queued says that it has a status to check.
func writeObject(w io.Writer, batch *intake.Batch, queued, minimal bool) error {
	state := intake.Completed
	for i := range batch.Verdicts {
		if batch.Verdicts[i].Code == intake.CodePending {
			state = intake.Pending
		}
	}
	buffer := answerBuffers.Get().(*[]byte)
	b := (*buffer)[:0]
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
			b = append(b, batch.Items[i].Raw...)
			b = append(b, ',')
		}
		b = appendStatus(b, &batch.Verdicts[i])
		b = append(b, '}')
		if len(b) >= answerBuffer {
			if _, err := w.Write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	b = append(b, "]}\n"...)
	_, err := w.Write(b)
	if cap(b) <= 2*answerBuffer {
		*buffer = b
		answerBuffers.Put(buffer)
	}
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
