package main

import (
	"io"
	"net/http"
	"net/http/httputil"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
)

// asStranger saves a batch, and gives what another partner may ask for it: where
// its status and its record are, and where there is neither for anybody.
func asStranger(t testing.TB) (client *http.Client, theirs, nobodys []string) {
	t.Helper()
	s := startStack(t, stackOptions{})
	f := s.fronts[0]
	secret := s.addPartner(t, "other")
	if err := f.auth.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	saved, err := post(t.Context(), s.client(t.Context(), f, "acme", s.secret), f, []byte("["+itemOf("theirs", 1)+"]"),
		"")
	if err != nil || saved.http != http.StatusOK {
		t.Fatalf("%+v %v", saved, err)
	}
	absent, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	const records, statuses = "/api/v1/clients/", "/api/v1/clients/status/"
	return s.client(t.Context(), f, "other", secret),
		[]string{f.url() + statuses + saved.ID, f.url() + records + "theirs"},
		[]string{f.url() + statuses + absent.String(), f.url() + records + "nobody"}
}

// Nothing in an answer tells another partner's batch or record from none.
func TestStranger(t *testing.T) {
	t.Parallel()
	client, theirs, nobodys := asStranger(t)
	ask := func(url string) string {
		t.Helper()
		response, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", url, response.Status)
		}
		response.Header.Del("Date")
		answer, err := httputil.DumpResponse(response, true)
		if err != nil {
			t.Fatal(err)
		}
		return string(answer)
	}
	for i := range theirs {
		if got, want := ask(theirs[i]), ask(nobodys[i]); got != want {
			t.Errorf("%s is answered\n%s\nand %s\n%s", theirs[i], got, nobodys[i], want)
		}
	}
}

// How long the answers take that must not differ, asked for in turn.
func BenchmarkStranger(b *testing.B) {
	client, theirs, nobodys := asStranger(b)
	for i, name := range []string{"status", "record"} {
		b.Run(name, func(b *testing.B) {
			var took [2][]time.Duration
			for b.Loop() {
				for which, url := range []string{theirs[i], nobodys[i]} {
					began := time.Now()
					response, err := client.Get(url)
					if err != nil {
						b.Fatal(err)
					}
					_, _ = io.Copy(io.Discard, response.Body)
					response.Body.Close()
					took[which] = append(took[which], time.Since(began))
				}
			}
			var medians [2]float64
			for which := range took {
				slices.Sort(took[which])
				medians[which] = float64(took[which][len(took[which])/2])
			}
			b.ReportMetric(medians[0]/1e3, "theirs-µs")
			b.ReportMetric(medians[1]/1e3, "nobody's-µs")
			b.ReportMetric(medians[0]/medians[1], "ratio")
		})
	}
}
