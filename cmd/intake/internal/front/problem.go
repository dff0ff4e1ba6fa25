package front

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// problemPath is the path of the types of problems. A type is the same wherever
// Intake runs, and leads to its description on the server that the problem came
// from (RFC 9457 §3.1.1).
const (
	problemPath  = "/problems/"
	problemRoute = problemPath + "{code}"
)

// describeProblem is GET /problems/{code}.
func describeProblem(w http.ResponseWriter, r *http.Request) {
	if problemCode(strings.TrimPrefix(r.URL.Path, problemPath)).status() == 0 {
		writeProblem(w, problem{code: codeNoPath, detail: "there is no problem with this code"})
		return
	}
	http.Redirect(w, r, "/docs#description/problems", http.StatusSeeOther)
}

// A problem is the answer to a request that is refused as a whole (RFC 9457).
// All of it goes to the client.
type problem struct {
	code   problemCode
	detail string
	// retryAfter, if set, is when to try again.
	retryAfter time.Duration
	usage      *usage // of a rate that is used up
}

func writeProblem(w http.ResponseWriter, p problem) {
	header := w.Header()
	header.Set("Content-Type", "application/problem+json")
	header.Set("Cache-Control", "no-store")
	if p.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(p.retrySeconds()))
	}
	p.usage.set(header)
	body := marshalProblem(p.members())
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.code.status())
	_, _ = w.Write(body) // a client that is gone needs no answer
}

// line gives the problem's object as a line of a stream, which has no header of its
// own to say when to try again.
func (p problem) line() []byte {
	members := p.members()
	if p.retryAfter > 0 {
		members["retry_after"] = p.retrySeconds()
	}
	return marshalProblem(members)
}

func (p problem) members() map[string]any {
	status := p.code.status()
	return map[string]any{
		"type": problemPath + string(p.code), "code": p.code,
		"title": http.StatusText(status), "status": status, "detail": p.detail,
	}
}

func (p problem) retrySeconds() int { return int((p.retryAfter + time.Second - 1) / time.Second) }

func marshalProblem(members map[string]any) []byte {
	body, err := json.Marshal(members)
	if err != nil {
		panic(err) // there is nothing in it that has no JSON
	}
	return append(body, '\n')
}
