package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"intake"
)

// A partner sends as fast as it can, many times what it may, over two fronts. It
// gets what it may and no more, and another partner doesn't notice.
func TestLimits(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{fronts: 2})
	quiet := s.addPartner(t, "quiet")
	const rate, burst = 500, 10_000
	partner := func(status int, args ...string) string {
		t.Helper()
		out, errs := outputOf(t, status, append([]string{"partner", "--postgres-url=" + s.flags.PostgresURL},
			args...)...)
		return out + errs
	}
	partner(0, "set", "acme", fmt.Sprint("--items-per-second=", rate), "--requests=16")
	for _, f := range s.fronts {
		if err := f.auth.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	end := began.Add(5 * time.Second)
	var mu sync.Mutex
	completed, refused := 0, 0
	// A slow machine takes longer than that to send more than a partner may.
	sendsOn := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return time.Now().Before(end) || refused == 0 && time.Since(began) < time.Minute
	}
	var sending sync.WaitGroup
	for n := range 8 {
		f := s.fronts[n%2]
		client := s.client(t.Context(), f, "acme", s.secret)
		sending.Go(func() {
			for batch := 0; sendsOn(); batch++ {
				var items []string
				for i := range 200 {
					items = append(items, itemOf(fmt.Sprintf("%d-%d-%d", n, batch, i), 1))
				}
				a, err := post(t.Context(), client, f, []byte("["+strings.Join(items, ",")+"]"),
					"wait=30, return=minimal")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				switch a.http {
				case http.StatusOK:
					completed += len(a.Result)
				case http.StatusTooManyRequests:
					refused++
				default:
					t.Errorf("answered %d: %s", a.http, a.refused.Detail)
				}
				mu.Unlock()
			}
		})
	}
	client := s.client(t.Context(), s.fronts[0], "quiet", quiet)
	for n := 0; sendsOn(); n++ {
		a, err := post(t.Context(), client, s.fronts[0], []byte("["+itemOf(fmt.Sprint(n), 1)+"]"), "wait=30")
		if err != nil || a.http != http.StatusOK || a.Result[0].Status.Code != intake.CodeSaved {
			t.Fatalf("the other partner: %+v %v", a, err)
		}
	}
	sending.Wait()
	// If Redis is slow for a while, each front lets in as much by itself, and Redis
	// knows nothing of it afterwards.
	most := (len(s.fronts) + 1) * (burst + rate*int(time.Since(began).Seconds()+1))
	if completed < burst || completed > most || refused == 0 {
		t.Errorf("%d items were saved and %d requests refused; it may have %d at once and at most %d in that time",
			completed, refused, burst, most)
	}
	if n := s.count(t, "select count(*) from saved_clients where partner = 'acme'"); n != completed {
		t.Errorf("%d records of %d items that were Completed", n, completed)
	}
}

// What a partner may send is set and shown.
func TestPartner_Set(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	partner := func(status int, args ...string) string {
		t.Helper()
		out, errs := outputOf(t, status, append([]string{"partner", "--postgres-url=" + s.flags.PostgresURL},
			args...)...)
		return out + errs
	}
	if out := partner(0, "show", "acme"); !strings.Contains(out, "no limit") || !strings.Contains(out, "enabled") {
		t.Error(out)
	}
	if out := partner(0, "set", "acme", "--items-per-second=20000", "--bytes=1000000"); !strings.Contains(out,
		"20000") || !strings.Contains(out, "40000") {
		t.Error(out)
	}
	partner(0, "set", "acme", "--burst=10000", "--requests=7")
	var shown partnerEntry
	if err := json.Unmarshal([]byte(partner(0, "--json", "show", "acme")), &shown); err != nil {
		t.Fatal(err)
	}
	if want := (limitEntry{20_000, 10_000, 7, 1_000_000}); shown.Limits != want || shown.ClientID != "acme" {
		t.Errorf("%+v, want %+v", shown, want)
	}
	partner(0, "set", "acme", "--items-per-second=0")
	if err := json.Unmarshal([]byte(partner(0, "--json", "show", "acme")), &shown); err != nil ||
		shown.Limits != (limitEntry{0, 0, 7, 1_000_000}) {
		t.Errorf("%+v %v", shown, err)
	}
	for _, args := range [][]string{
		{"set", "acme"}, {"set", "acme", "--requests=-1"}, {"set", "acme", "--items-per-second=5", "--burst=9999"},
		{"set", "nobody", "--requests=1"}, {"show", "nobody"}, {"set", "acme", "--bytes=x"},
	} {
		if status := map[bool]int{true: statusUsage,
			false: statusFailed}[args[len(args)-1] == "--bytes=x"]; partner(status, args...) == "" {
			t.Errorf("%v says nothing", args)
		}
	}
}
