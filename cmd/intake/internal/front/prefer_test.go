package front

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestReadPreferences(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		prefer  string // headers, separated by |
		wait    time.Duration
		minimal bool
		applied string
	}{
		{"", 10 * time.Second, false, ""},
		{"wait=5", 5 * time.Second, false, "wait=5"},
		{"wait=0", 0, false, "wait=0"},
		{"wait=005", 5 * time.Second, false, "wait=5"},
		{`wait="5"`, 5 * time.Second, false, "wait=5"},
		{"Wait = 5", 5 * time.Second, false, "wait=5"},
		{"wait=30", 30 * time.Second, false, "wait=30"},
		{"wait=31", 30 * time.Second, false, "wait=30"},
		{"wait=3000000000", 30 * time.Second, false, "wait=30"},
		{"wait=" + strings.Repeat("9", 100), 30 * time.Second, false, "wait=30"},
		{"wait", 10 * time.Second, false, ""},
		{"wait=", 10 * time.Second, false, ""},
		{"wait=-1", 10 * time.Second, false, ""},
		{"wait=+1", 10 * time.Second, false, ""},
		{"wait=1.5", 10 * time.Second, false, ""},
		{"wait=1s", 10 * time.Second, false, ""},
		{"return=minimal", 10 * time.Second, true, "return=minimal"},
		{"RETURN=Minimal", 10 * time.Second, true, "return=minimal"},
		{`return="minimal"`, 10 * time.Second, true, "return=minimal"},
		{"return=representation", 10 * time.Second, false, ""},
		{"return", 10 * time.Second, false, ""},
		{"return=minimal, wait=5", 5 * time.Second, true, "return=minimal, wait=5"},
		{"wait=5|return=minimal", 5 * time.Second, true, "wait=5, return=minimal"},
		{"wait=5; a=b; c, return=minimal;x", 5 * time.Second, true, "wait=5, return=minimal"},
		{"wait=5, wait=7", 5 * time.Second, false, "wait=5"},
		{"wait=5|wait=7", 5 * time.Second, false, "wait=5"},
		{"wait=x, wait=7", 10 * time.Second, false, ""},
		{"return=representation, return=minimal", 10 * time.Second, false, ""},
		{"respond-async", 0, false, "respond-async"},
		{"Respond-Async, respond-async", 0, false, "respond-async"},
		{"respond-async, handling=lenient, wait=5", 5 * time.Second, false, "respond-async, wait=5"},
		{"respond-async, wait=x", 0, false, "respond-async"},
		{"handling=validate", 10 * time.Second, false, "handling=validate"},
		{"Handling=Validate, return=minimal, wait=5", 5 * time.Second, true, "handling=validate, return=minimal"},
		{"respond-async, handling=validate", 0, false, "handling=validate"},
		{"handling=strict, handling=validate", 10 * time.Second, false, ""},
		{`foo="a, wait=1, \", wait=2", wait=3`, 3 * time.Second, false, "wait=3"},
		{`foo; bar="; wait=1, x", wait=3`, 3 * time.Second, false, "wait=3"},
		{`foo="never closed, wait=3`, 10 * time.Second, false, ""},
		{`foo="\`, 10 * time.Second, false, ""},
		{",, ,;=,wait=3,", 3 * time.Second, false, "wait=3"},
	} {
		header := http.Header{}
		if c.prefer != "" {
			header["Prefer"] = strings.Split(c.prefer, "|")
		}
		p := readPreferences(header)
		if applied := strings.Join(p.applied, ", "); p.wait != c.wait || p.minimal != c.minimal ||
			applied != c.applied {
			t.Errorf("%s: wait %s, minimal %v, applied %q; want %s, %v, %q", c.prefer, p.wait, p.minimal, applied,
				c.wait, c.minimal, c.applied)
		}
	}
}

func FuzzReadPreferences(f *testing.F) {
	f.Add(`a="b\"", wait=5;c=d, return=minimal`)
	f.Fuzz(func(t *testing.T, prefer string) {
		p := readPreferences(http.Header{"Prefer": {prefer}})
		if p.wait < 0 || p.wait > maxWait || len(p.applied) > 3 {
			t.Errorf("%q: %+v", prefer, p)
		}
	})
}
