package front

import (
	"errors"
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

// writeAnswer answers a request that has sent a batch. queued says that some of
// it was queued.
func writeAnswer(w http.ResponseWriter, batch *intake.Batch, queued, minimal bool) error {
	status := http.StatusOK
	for i := range batch.Verdicts {
		if batch.Verdicts[i].Code == intake.CodePending {
			status = http.StatusAccepted
		}
	}
	if status == http.StatusAccepted {
		w.Header().Set("Location", statusPath+batch.ID.String())
	}
	return writeBatch(w, status, batch, queued, minimal)
}

// writeBatch writes the contract's object for a batch, each item's text as it was
// sent.
func writeBatch(w http.ResponseWriter, status int, batch *intake.Batch, queued, minimal bool) error {
	state := intake.Completed
	size := 256
	for i := range batch.Verdicts {
		if batch.Verdicts[i].Code == intake.CodePending {
			state = intake.Pending
		}
		size += 100 + len(batch.Verdicts[i].Text)
		if !minimal {
			size += len(batch.Items[i].Raw)
		}
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A client that takes its answer slower than this is not waited for.
	limit := time.Now().Add(slowest(int64(size)))
	if err := http.NewResponseController(w).SetWriteDeadline(limit); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
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
