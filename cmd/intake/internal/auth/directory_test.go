package auth_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"intake/sink"
)

// A partner's change reaches a running front within 5 s. While they can't be
// read, those known last are let in; that is logged once.
func TestRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newAuth(t, nil)
		ctx, stop := context.WithCancel(t.Context())
		ran := make(chan error)
		go func() { ran <- f.Run(ctx) }()
		token := f.token(t)
		status := func() int {
			a := newAnswer()
			f.ServeHTTP(a, f.request(t, token))
			return a.status
		}
		for i, disabled := range []bool{false, true, false} {
			f.registry.Change("acme", func(p *sink.PartnerRecord) { p.Disabled = disabled })
			time.Sleep(5 * time.Second)
			if got, want := status(), map[bool]int{false: 200, true: 401}[disabled]; got != want {
				t.Errorf("change %d: answered %d, want %d", i, got, want)
			}
		}
		f.registry.SetAway(true)
		time.Sleep(time.Hour / 2)
		if got := status(); got != http.StatusOK {
			t.Errorf("answered %d when the partners can't be read", got)
		}
		f.registry.SetAway(false)
		time.Sleep(5 * time.Second)
		if n := f.logs.FilterMessageSnippet("cannot read the partners").Len(); n != 1 {
			t.Errorf("it was logged %d times that the partners can't be read", n)
		}
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
}

// Tokens last an hour, and the minute that clocks may differ by, cached or not.
func TestToken_Expires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newAuth(t, nil)
		used, unused := f.token(t), f.token(t)
		status := func(token string) int {
			a := newAnswer()
			f.ServeHTTP(a, f.request(t, token))
			return a.status
		}
		for range 60 {
			if got := status(used); got != http.StatusOK {
				t.Fatalf("answered %d to a token that is valid", got)
			}
			time.Sleep(time.Minute)
		}
		time.Sleep(61 * time.Second)
		for _, token := range []string{used, unused} {
			a := newAnswer()
			f.ServeHTTP(a, f.request(t, token))
			a.checkProblem(t, http.StatusUnauthorized, "token_expired: ")
		}
	})
}
