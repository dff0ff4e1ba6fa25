package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"intake/internal/local/localtest"
)

// A wrong command line says what is wrong with it and where to read on, in two
// lines on standard error, and nothing on standard output.
func TestUsage(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"sned": `intake: unexpected argument sned, did you mean one of "send", "seen"?` +
			"\nRun \"intake --help\" for help.\n",
		"partner list":                      "intake: missing: --postgres-url (or $INTAKE_POSTGRES_URL)\nRun \"intake partner list --help\" for help.\n",
		"partner --postgres-url=p add acme": "intake: missing: --currency\nRun \"intake partner add --help\" for help.\n",
		"front":                             "intake: missing: --postgres-url (or $INTAKE_POSTGRES_URL), --nats-url (or $INTAKE_NATS_URL)\nRun \"intake front --help\" for help.\n",
		"recover --postgres-url=p --nats-url=n --since=yesterday": `intake: --since: "yesterday" is no time: write it like 2h, 3d, 2026-01-31T23:00:00Z, or 2026-01-31 23:00 in UTC` +
			"\nRun \"intake recover --help\" for help.\n",
	} {
		out, errs := outputOf(t, statusUsage, strings.Fields(args)...)
		if diff := cmp.Diff(want, errs); diff != "" || out != "" {
			t.Errorf("%s: standard output %q; wanted (-), on standard error (+):\n%s", args, out, diff)
		}
	}
}

// What is asked for is printed on standard output, with status 0.
func TestUsage_Asked(t *testing.T) {
	t.Parallel()
	help, _ := outputOf(t, 0, "send", "--help")
	for args, want := range map[string]string{"help send": help, "--version": versionText() + "\n",
		"-v": versionText() + "\n"} {
		if out, _ := outputOf(t, 0, strings.Fields(args)...); out != want {
			t.Errorf("intake %s prints\n%swant\n%s", args, out, want)
		}
	}
	if out, _ := outputOf(t, 0, "--help"); !strings.Contains(out, "130 after Ctrl-C") {
		t.Errorf("the help lacks the exit statuses:\n%s", out)
	}
}

// Bash completes commands, subcommands and flags.
func TestCompletion(t *testing.T) {
	t.Parallel()
	script, _ := outputOf(t, 0, "completion", "bash")
	for line, want := range map[string]string{
		"intake se":                         "send seen",
		"intake partner ro":                 "rotate",
		"intake partner --json rotate --ov": "--overlap",
		"intake send a.json --dry":          "--dry-run",
		"intake key drop --f":               "--force",
		"intake --vers":                     "--version",
	} {
		words := strings.Fields(line)
		ask := fmt.Sprintf("%s\nCOMP_WORDS=(%s) COMP_CWORD=%d\n_intake\necho ${COMPREPLY[*]}", script, line,
			len(words)-1)
		out, err := exec.CommandContext(t.Context(), "bash", "-c", ask).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%s is completed with %q (%v), want %q", line, got, err, want)
		}
	}
}

func TestRewrite(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"help":                            "--help",
		"help partner add":                "partner add --help",
		"partner set acme --requests -1":  "partner set acme --requests=-1",
		"partner set acme --requests=1 -": "partner set acme --requests=1 -",
		"key drop -- -x1":                 "key drop -- -x1",
		"key drop -- -1":                  "key drop -- -1",
		"generate -o -":                   "generate -o -",
	} {
		if got := strings.Join(rewrite(strings.Fields(args)), " "); got != want {
			t.Errorf("%s becomes %s, want %s", args, got, want)
		}
	}
}

func TestMoment(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2h":                   now.Add(-2 * time.Hour),
		"90m":                  now.Add(-90 * time.Minute),
		"3d":                   now.AddDate(0, 0, -3),
		"2026-01-31T23:00:00Z": time.Date(2026, 1, 31, 23, 0, 0, 0, time.UTC),
		"2026-01-31 23:00":     time.Date(2026, 1, 31, 23, 0, 0, 0, time.UTC),
		"2026-01-31":           time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC),
	} {
		if got, err := parseMoment(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%s is %v (%v), want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "yesterday", "-2h", "-3d", "2"} {
		if got, err := parseMoment(text, now); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

// Without a terminal there is a line every 5 s; on one the line is cleared in the
// end. A reason is given once in 5 s.
func TestProgress(t *testing.T) {
	for _, test := range []struct {
		terminal bool
		want     string
	}{
		{false, "down\nup\nat 5s\ndown\nat 10s\n"},
		{true, clearLine + "down\n" + clearLine + "up\n" + clearLine + "down\n" + clearLine},
	} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			began := time.Now()
			p := newProgress(&out, test.terminal, func() string { return "at " + time.Since(began).String() })
			p.say("a", "down")
			p.say("a", "down")
			p.say("b", "up")
			time.Sleep(6 * time.Second)
			p.say("a", "down")
			time.Sleep(5 * time.Second)
			p.stop()
			p.stop()
			got := out.String()
			if test.terminal { // the line is drawn many times
				var rest []string
				for _, piece := range strings.SplitAfter(got, clearLine) {
					if !strings.HasPrefix(piece, "at ") {
						rest = append(rest, piece)
					}
				}
				got = strings.Join(rest, "")
			}
			if got != test.want {
				t.Errorf("terminal %v: %q, want %q", test.terminal, got, test.want)
			}
		})
	}
}

func TestWithoutSecrets(t *testing.T) {
	t.Parallel()
	args := strings.Fields("replay a --client-secret hidden --client-id acme --postgres-url=postgres://u:hidden@h/d --client-secret=hidden")
	const want = "replay a --client-secret … --client-id acme --postgres-url=… --client-secret=…"
	if got := strings.Join(withoutSecrets(args), " "); got != want {
		t.Errorf("shown as %s, want %s", got, want)
	}
}

// The hint at migrate is for a missing table, not for a server that is down.
func TestHintSchema(t *testing.T) {
	t.Parallel()
	missing := fmt.Errorf("read: %w", &pgconn.PgError{Code: "42P01"})
	if err := hintSchema(missing); !strings.Contains(err.Error(), "migrate") || !errors.Is(err, missing) {
		t.Errorf("a missing table: %v", err)
	}
	if err := hintSchema(syscall.ECONNREFUSED); err != error(syscall.ECONNREFUSED) {
		t.Errorf("a server that is down: %v", err)
	}
}

// refusingFront issues tokens, and refuses every batch with a status.
func refusingFront(t *testing.T, status int) (flags []string, refused *atomic.Int32) {
	t.Helper()
	refused = new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/oauth/token" {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"access_token":"any","token_type":"Bearer","expires_in":3600}`)
			return
		}
		refused.Add(1)
		w.WriteHeader(status)
	}))
	t.Cleanup(server.Close)
	return []string{"--url=" + server.URL, "--client-id=acme", "--client-secret=secret"}, refused
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "batches.json")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A replay with failed requests fails, unless its thresholds allow them.
func TestReplay_FailIf(t *testing.T) {
	t.Parallel()
	front, _ := refusingFront(t, http.StatusForbidden)
	replay := append([]string{"replay", writeFile(t, `[{"partner_client_id":"a"}] [{"partner_client_id":"b"}]`)},
		front...)
	out, errs := outputOf(t, statusFailed, replay...)
	if !strings.Contains(out, "answered 403") || errs != "intake: failed is 2 (--fail-if 'failed>0')\n" {
		t.Errorf("%s%s", out, errs)
	}
	outputOf(t, 0, append(replay, "--fail-if=failed>2")...)
	_, errs = outputOf(t, statusFailed, append(replay, "--fail-if=failed>2", "--fail-if", "p50<10s")...)
	if !strings.HasPrefix(errs, "intake: p50 is ") {
		t.Errorf("%s", errs)
	}
	_, errs = outputOf(t, statusUsage, append(replay, "--fail-if=p99")...)
	if !strings.Contains(errs, `"p99" is no threshold`) {
		t.Errorf("%s", errs)
	}
}

// A file without a batch, and one that isn't there, fail without a table.
func TestSend_NothingToSend(t *testing.T) {
	t.Parallel()
	front, _ := refusingFront(t, http.StatusForbidden)
	for _, file := range []string{writeFile(t, ""), filepath.Join(t.TempDir(), "none")} {
		out, errs := outputOf(t, statusFailed, append([]string{"send", file}, front...)...)
		if out != "" || !strings.HasPrefix(errs, "intake: ") {
			t.Errorf("standard output %q, standard error %q", out, errs)
		}
	}
}

// Whatever a command waits for, Ctrl-C ends it with 130, and send says what may
// still be saved.
func TestSend_Interrupted(t *testing.T) {
	t.Parallel()
	front, refused := refusingFront(t, http.StatusServiceUnavailable)
	cmd := command(t, append([]string{"send", writeFile(t, "[1]")}, front...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "the batch is retried", func() bool { return refused.Load() > 1 })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != statusInterrupted || out.Len() > 0 {
		t.Errorf("exit status %d, standard output %q", code, &out)
	}
	for _, want := range []string{"batch 1: 503 Service Unavailable; trying again in ", "(--retry-for 2m0s)",
		"interrupted; batches without an answer may still be saved"} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("standard error lacks %q:\n%s", want, &errs)
		}
	}
}

// A partner finds its batch, its record and a token with the commands.
func TestLookups(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	front := []string{"--url=" + s.fronts[0].url(), "--client-id=acme", "--client-secret=" + s.secret}
	client := s.client(t.Context(), s.fronts[0], "acme", s.secret)
	a, err := post(t.Context(), client, s.fronts[0], []byte("["+itemOf("a", 1)+`,{"partner_client_id":"b"},5]`),
		"wait=30")
	if err != nil || a.ID == "" {
		t.Fatalf("%+v %v", a, err)
	}
	out, _ := outputOf(t, 0, append([]string{"status", a.ID}, front...)...)
	for _, want := range []string{"Completed", "saved", "Failed", "entity_type", "the batch is Completed"} {
		if !strings.Contains(out, want) {
			t.Errorf("the status lacks %q:\n%s", want, out)
		}
	}
	if out, _ = outputOf(t, 0, append([]string{"get", "a"}, front...)...); !strings.Contains(out,
		`"partner_client_id": "a"`) {
		t.Errorf("the record:\n%s", out)
	}
	if _, errs := outputOf(t, statusFailed, append([]string{"get", "nobody"}, front...)...); !strings.HasPrefix(errs,
		"intake: 404 Not Found: ") {
		t.Errorf("no record: %s", errs)
	}
	if out, _ = outputOf(t, 0, append([]string{"token"}, front...)...); strings.Count(out, ".") != 2 ||
		strings.ContainsAny(strings.TrimSuffix(out, "\n"), " \n") {
		t.Errorf("the token: %s", out)
	}
}
