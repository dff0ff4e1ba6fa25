package auth_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/origin"
)

// Who guesses secrets is not listened to any more, for that client; and for no
// client that is new there, after many. Nobody elsewhere notices, nor a client
// that came in from there before.
func TestToken_Guessing(t *testing.T) {
	t.Parallel()
	f := newAuth(t, func(o *auth.Options) { o.Proxies = origin.Proxies{netip.MustParsePrefix("127.0.0.0/8")} })
	other := f.registry.Add("other")
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask := func(address, id, secret string) int {
		t.Helper()
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/oauth/token",
			strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		request.RemoteAddr = "127.0.0.1:1"
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		// The first one is the client's own invention.
		request.Header.Set("X-Forwarded-For", "8.8.8.8, "+address+", 127.0.0.9")
		a := newAnswer()
		f.ServeHTTP(a, request)
		if (a.status == http.StatusTooManyRequests) != (a.header.Get("Retry-After") != "") {
			t.Errorf("%d with Retry-After %q", a.status, a.header.Get("Retry-After"))
		}
		return a.status
	}
	want := func(what string, status, got int) {
		t.Helper()
		if got != status {
			t.Errorf("%s: %d, want %d", what, got, status)
		}
	}
	want("a partner comes in", 200, ask("10.0.0.1", "other", other))
	for range 30 {
		want("a guess", 401, ask("10.0.0.1", "acme", "wrong"))
	}
	want("one guess more", 429, ask("10.0.0.1", "acme", "wrong"))
	want("it may even be right", 429, ask("10.0.0.1", "acme", f.secret))
	want("the partner elsewhere", 200, ask("10.0.0.2", "acme", f.secret))
	for n := range 200 {
		ask("10.0.0.1", fmt.Sprint("nobody-", n), "wrong")
	}
	want("a stranger there", 429, ask("10.0.0.1", "nobody", "wrong"))
	want("the partner who came in from there", 200, ask("10.0.0.1", "other", other))
	want("his wrong secret", 401, ask("10.0.0.1", "other", "wrong"))
	for n := range 31 {
		ask(fmt.Sprintf("2001:db8::%x", n), "acme", "wrong")
	}
	want("another address of the same network", 429, ask("2001:db8::ffff", "acme", f.secret))
	want("another network", 200, ask("2001:db8:0:1::1", "acme", f.secret))
}

// What strangers send as credentials isn't kept: neither names that no partner can
// have, nor what stands beside one that a partner could have. Nothing runs beside it,
// for the heap is looked at.
func TestToken_GuessesHoldNothing(t *testing.T) {
	f := newAuth(t, nil)
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	guess := func(n int, id, secret string) int {
		r := httptest.NewRequest(http.MethodPost, "http://front/oauth/token",
			strings.NewReader("grant_type=client_credentials"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.RemoteAddr = fmt.Sprintf("10.0.%d.1:1", n/25) // fewer from each address than are looked at
		r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(id+":"+secret)))
		w := newAnswer()
		f.ServeHTTP(w, r)
		return w.status
	}
	long := strings.Repeat("x", 23_000)
	before := heap()
	for n := range 3_000 {
		for _, status := range []int{guess(n, fmt.Sprint(n, long), "y"), guess(n, fmt.Sprint(n), long)} {
			if status != http.StatusUnauthorized {
				t.Fatalf("guess %d is answered %d", n, status)
			}
		}
	}
	if held := heap() - before; held > 32<<20 {
		t.Errorf("%d MiB are held of what was sent", held>>20)
	}
	for n := 0; guess(0, fmt.Sprint("Nobody ", n), "y") != http.StatusTooManyRequests; n++ {
		if n == 40 {
			t.Fatal("names that no partner can have are not counted as one")
		}
	}
	runtime.KeepAlive(f)
}
