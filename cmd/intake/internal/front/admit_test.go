package front_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// While more is queued than can be saved in good time, a batch is refused before it
// is read, and told to come back when that should be over; a dry run isn't.
func TestCreate_Overloaded(t *testing.T) {
	t.Parallel()
	f := newFront(t, nil)
	token := f.token(t)
	create := func(body string, header ...string) *answer {
		a := newAnswer()
		f.ServeHTTP(a, f.create(t, token, strings.NewReader(body), header...))
		return a
	}
	last := 0
	for _, backlog := range []time.Duration{11 * time.Second, 30 * time.Second, time.Hour} {
		f.queue.backlog.Store(int64(backlog))
		a := create("not even JSON")
		a.checkProblem(t, http.StatusServiceUnavailable, "more is queued than can be saved in good time")
		seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
		if err != nil || seconds <= last || seconds > 60 {
			t.Errorf("with a backlog of %s, Retry-After is %q, after %d", backlog, a.header.Get("Retry-After"), last)
		}
		last = seconds
	}
	if a := create(items("a"), "Prefer", "handling=validate"); a.status != http.StatusOK {
		t.Errorf("a dry run is answered %d", a.status)
	}
	f.queue.backlog.Store(int64(9 * time.Second))
	if a := create(items("a")); a.status != http.StatusOK {
		t.Errorf("answered %d with a backlog that is allowed", a.status)
	}
	if n := len(f.queue.batches); n != 1 {
		t.Errorf("%d batches were queued", n)
	}
}
