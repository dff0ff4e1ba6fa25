package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"intake/cmd/intake/internal/traffic"
)

func generated(t *testing.T, opts traffic.GeneratorOptions, batches int) (templates []*traffic.Template) {
	t.Helper()
	g, err := traffic.NewGenerator(opts)
	if err != nil {
		t.Fatal(err)
	}
	for range batches {
		templates = append(templates, traffic.NewTemplate(g.AppendBatch(nil)))
	}
	return templates
}

// A replay counts every item, and verifying it finds each answer true, and each
// one that is made untrue behind its back.
func TestReplay(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{fronts: 1, workers: 2})
	opts := traffic.ReplayOptions{
		URL: s.fronts[0].url(), ClientID: "acme", ClientSecret: s.secret, Concurrency: 8, Keep: true,
		Batches: generated(t, traffic.GeneratorOptions{BatchItems: 50, Claims: 2, Duplicates: 0.1, Conflicts: 0.1,
			Invalid: 0.1}, 40),
	}
	report, err := traffic.Replay(t.Context(), opts, nil)
	if err != nil {
		t.Fatal(err)
	}
	if report.Requests != 40 || report.Items != 2_000 || report.Statuses["200"] != 40 || len(report.Errors) > 0 {
		t.Fatalf("%+v", report)
	}
	if saved := s.count(t, "select count(*) from partner_clients"); report.Codes["saved"] != saved {
		t.Errorf("%d items were called saved, %d are", report.Codes["saved"], saved)
	}
	verified, err := traffic.Verify(t.Context(), s.flags.PostgresURL, report)
	if err != nil || verified.Wrong != 0 || verified.Batches != 40 || verified.Items != 2_000 {
		t.Fatalf("%+v %v", verified, err)
	}
	if _, err := s.conn.Exec(t.Context(),
		"delete from partner_clients where id in (select id from partner_clients limit 3)"); err != nil {
		t.Fatal(err)
	}
	if verified, err = traffic.Verify(t.Context(), s.flags.PostgresURL, report); err != nil || verified.Wrong != 3 ||
		len(verified.Examples) != 3 {
		t.Errorf("three records are gone: %+v %v", verified, err)
	}
	var page bytes.Buffer
	if err := report.HTML(&page, traffic.Page{Target: "http://target.test", Verified: verified,
		Crossed: []string{"p99 is 7 ms"}}); err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]int{"<svg": 4, "http://": 1, "http://target.test": 1, "src=": 0, "href=": 0,
		"<b>3 answers untrue</b>": 1, "p99 is 7 ms": 1, "2,000 items of 40 batches": 1} {
		if n := strings.Count(page.String(), what); n != want {
			t.Errorf("the page has %q %d times, want %d:\n%s", what, n, want, &page)
		}
	}
}

// At a rate batches are sent over and over, no more of them than are due, with
// fresh keys.
func TestReplay_Rate(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	report, err := traffic.Replay(t.Context(), traffic.ReplayOptions{
		URL: s.fronts[0].url(), ClientID: "acme", ClientSecret: s.secret,
		Batches: generated(t, traffic.GeneratorOptions{BatchItems: 5}, 2), Rate: 20, Duration: 2 * time.Second,
		FreshKeys: true,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if report.Requests == 0 || report.Requests > 2*20+1 || report.Codes["saved"] != 5*report.Requests {
		t.Errorf("%d requests, %v", report.Requests, report.Codes)
	}
}

func TestReplay_WrongSecret(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	_, err := traffic.Replay(t.Context(), traffic.ReplayOptions{
		URL: s.fronts[0].url(), ClientID: "acme", ClientSecret: "wrong",
		Batches: generated(t, traffic.GeneratorOptions{}, 1),
	}, nil)
	if err == nil || !strings.Contains(err.Error(), "invalid_client") {
		t.Errorf("%v", err)
	}
}

// What is generated can be replayed, by the commands.
func TestGenerateAndReplay(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	dir := t.TempDir()
	file, page := filepath.Join(dir, "batches.ndjson"), filepath.Join(dir, "report.html")
	outputOf(t, 0, "generate", "--output="+file, "--batches=5", "--items=10", "--claims=0", "--seed=3")
	front := []string{"--url=" + s.fronts[0].url(), "--client-id=acme", "--client-secret=" + s.secret,
		"--postgres-url=" + s.flags.PostgresURL}
	out, _ := outputOf(t, 0, append([]string{"replay", file, "--verify", "--html=" + page}, front...)...)
	for _, want := range []string{"50", "saved", "0 answers untrue"} {
		if !strings.Contains(out, want) {
			t.Errorf("the report lacks %q:\n%s", want, out)
		}
	}
	if info, err := os.Stat(page); err != nil || info.Size() == 0 {
		t.Error(info, err)
	}
	out, _ = outputOf(t, 0, append([]string{"replay", file, "--json"}, front...)...)
	if want := fmt.Sprintf(`"duplicate_of_saved":%d`, 50); !strings.Contains(out, want) {
		t.Errorf("sent again, the report lacks %s:\n%s", want, out)
	}
}
