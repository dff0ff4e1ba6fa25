package client

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Problem is the refusal of a request as a whole (RFC 9457).
type Problem struct {
	Status int    `json:"-"` // of HTTP
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Code   string `json:"code"` // for programs, and stable; empty if the answer is not the front's
	// RetryAfter is how long the server asks to wait; 0 if it does not say.
	RetryAfter time.Duration `json:"-"`
	// Body is the answer as it came, at most 64 KiB of it.
	Body []byte `json:"-"`
}

func (p *Problem) Error() string {
	text := fmt.Sprintf("%d %s", p.Status, cmp.Or(p.Title, http.StatusText(p.Status)))
	if p.Detail != "" {
		text += ": " + p.Detail
	}
	if p.RetryAfter > 0 {
		text += fmt.Sprintf(" (Retry-After: %.0f s)", p.RetryAfter.Seconds())
	}
	return text
}

// Temporary reports whether the same request may succeed later.
func (p *Problem) Temporary() bool {
	switch p.Status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// readProblem reads an answer that is a refusal. A proxy's may have any form.
func readProblem(response *http.Response) *Problem {
	p := &Problem{Status: response.StatusCode, RetryAfter: parseRetryAfter(response.Header.Get("Retry-After"),
		time.Now())}
	p.Body, _ = io.ReadAll(io.LimitReader(response.Body, 64<<10)) // what has come is all that can be told
	media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	switch location := response.Header.Get("Location"); {
	case strings.HasSuffix(media, "json") && json.Unmarshal(p.Body, p) == nil:
	case location != "":
		p.Detail = "it redirects to " + location
	case !p.Temporary():
		kind := response.Header.Get("Content-Type")
		p.Detail = fmt.Sprintf("the answer is not an Intake's (Content-Type: %q), check the URL", kind)
	}
	return p
}

// parseRetryAfter reads seconds or a date (RFC 9110 §10.2.3).
func parseRetryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(text); err == nil {
		return max(time.Duration(seconds)*time.Second, 0)
	}
	if date, err := http.ParseTime(text); err == nil {
		return max(date.Sub(now), 0)
	}
	return 0
}

// IsTemporary reports whether what failed with err may succeed later: anything
// but a refusal for good, of a request or of a token.
func IsTemporary(err error) bool {
	var problem *Problem
	return !errors.As(err, &problem) || problem.Temporary()
}
