// Package problem is how a request is refused as a whole (RFC 9457): the codes, and
// the error that carries one to the place that answers with it.
package problem

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Path is the path under which the types of problems are. A type is the same wherever
// Intake runs, and leads to its description on the server that the problem came from
// (RFC 9457 §3.1.1).
const Path = "/problems/"

// A Handler answers a request, or returns the error to refuse it with, which is a
// [Problem] if the client may know why.
type Handler func(w http.ResponseWriter, r *http.Request) error

// A Problem is the answer to a request that is refused as a whole. All of it goes to
// the client. It is not changed once it is made, so that several requests can be
// refused with the same one.
type Problem struct {
	Code       Code
	Detail     string
	RetryAfter time.Duration // when to try again; not said if zero
	header     http.Header   // further headers of the answer
}

// New returns a problem whose detail is formatted as by [fmt.Sprintf].
func New(code Code, format string, args ...any) *Problem {
	return &Problem{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// After returns a copy of p that asks the client to try again after d.
func (p *Problem) After(d time.Duration) *Problem {
	copied := *p
	copied.RetryAfter = d
	return &copied
}

// With returns a copy of p whose answer has one more header.
func (p *Problem) With(name, value string) *Problem {
	copied := *p
	if copied.header = p.header.Clone(); copied.header == nil {
		copied.header = make(http.Header)
	}
	copied.header.Set(name, value)
	return &copied
}

// Error implements error.
func (p *Problem) Error() string { return string(p.Code) + ": " + p.Detail }

// CodeOf returns the code of the problem that err is, "" if it is none.
func CodeOf(err error) Code {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p.Code
	}
	return ""
}

// Write refuses a request with the problem.
func (p *Problem) Write(w http.ResponseWriter) {
	header := w.Header()
	for name, values := range p.header {
		header[name] = values
	}
	header.Set("Content-Type", "application/problem+json")
	header.Set("Cache-Control", "no-store")
	if p.RetryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(p.retrySeconds()))
	}
	body := marshal(p.members())
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Code.Status())
	_, _ = w.Write(body) // a client that is gone needs no answer
}

// Line returns the problem's object as a line of a stream, which has no header of its
// own to say when to try again.
func (p *Problem) Line() []byte {
	members := p.members()
	if p.RetryAfter > 0 {
		members["retry_after"] = p.retrySeconds()
	}
	return marshal(members)
}

func (p *Problem) members() map[string]any {
	status := p.Code.Status()
	return map[string]any{
		"type": Path + string(p.Code), "code": p.Code,
		"title": http.StatusText(status), "status": status, "detail": p.Detail,
	}
}

func (p *Problem) retrySeconds() int { return int((p.RetryAfter + time.Second - 1) / time.Second) }

func marshal(members map[string]any) []byte {
	body, err := json.Marshal(members)
	if err != nil {
		panic(err) // strings and numbers can always be marshalled
	}
	return append(body, '\n')
}

// Describe is GET /problems/{code}: it leads to the description of a code.
func Describe(w http.ResponseWriter, r *http.Request) error {
	if Code(r.URL.Path[len(Path):]).Status() == 0 {
		return New(NoPath, "there is no problem with this code")
	}
	http.Redirect(w, r, "/docs#tag/problems", http.StatusSeeOther)
	return nil
}
