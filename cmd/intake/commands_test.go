package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"intake/internal/local/localtest"
)

// commandEnv makes this test binary the command itself.
const commandEnv = "INTAKE_TEST_COMMAND"

// command returns the command with arguments, to be run as a user runs it.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "INTAKE_") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, commandEnv+"=1")
	return cmd
}

// outputOf runs a command to its end and wants it to exit with a status.
func outputOf(t *testing.T, status int, args ...string) (stdout, stderr string) {
	t.Helper()
	cmd := command(t, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || cmd.ProcessState.ExitCode() != status {
		t.Fatalf("intake %s: %v, want exit status %d\n%s%s", strings.Join(args, " "), err, status, &out, &errs)
	}
	return out.String(), errs.String()
}

// A runningUp is an intake up.
type runningUp struct {
	cmd   *exec.Cmd
	ended chan struct{}
	mu    sync.Mutex
	said  bytes.Buffer
}

func (u *runningUp) Write(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.said.Write(b)
}

func (u *runningUp) output() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.said.String()
}

// startUp starts an intake up and waits until it has said something.
func startUp(t *testing.T, data, until string, args ...string) *runningUp {
	t.Helper()
	u := &runningUp{cmd: command(t, append([]string{"up", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0",
		"--worker-admin-listen=127.0.0.1:0", "--data=" + data}, args...)...), ended: make(chan struct{})}
	u.cmd.Stdout, u.cmd.Stderr = u, u
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(u.ended)
		_ = u.cmd.Wait()
	}()
	t.Cleanup(func() { u.end(t, syscall.SIGTERM) })
	deadline := time.After(90 * time.Second)
	for !strings.Contains(u.output(), until) {
		select {
		case <-u.ended:
			t.Fatalf("intake up ended:\n%s", u.output())
		case <-deadline:
			t.Fatalf("intake up did not say %q:\n%s", until, u.output())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return u
}

func (u *runningUp) end(t *testing.T, signal syscall.Signal) {
	t.Helper()
	_ = u.cmd.Process.Signal(signal)
	select {
	case <-u.ended:
	case <-time.After(45 * time.Second):
		_ = u.cmd.Process.Kill()
		t.Errorf("intake up does not end:\n%s", u.output())
	}
}

// The whole stack with one command: the sample batch shows all four states, what
// is sent is saved, and all is found again after a clean stop and after a kill,
// which leaves no server behind that would be in the way.
func TestUp(t *testing.T) {
	t.Parallel()
	data := localtest.Dir(t)
	file := filepath.Join(data, "batches.ndjson")
	batches := "[" + itemOf("a", 1) + "," + itemOf("b", 1) + "]\n[" + itemOf("c", 1) + "]\n"
	if err := os.WriteFile(file, []byte(batches), 0o600); err != nil {
		t.Fatal(err)
	}
	u := startUp(t, data, "hotel-", "--demo")
	for _, state := range []string{"Completed", "Duplicate", "Conflict", "Failed", "curl", "up.env", "intake.log",
		" send FILE", " partner add "} {
		if !strings.Contains(u.output(), state) {
			t.Errorf("the demo lacks %q:\n%s", state, u.output())
		}
	}
	if info, err := os.Stat(filepath.Join(data, envFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v %v", envFile, info.Mode(), err)
	}
	if _, errs := outputOf(t, 1, "up", "--data="+data); !strings.Contains(errs, "another intake up") {
		t.Errorf("a second one in the same folder says %q", errs)
	}
	if out, _ := outputOf(t, 0, "send", "--data="+data, "--json", file); !strings.Contains(out, `"codes":{"saved":3}`) {
		t.Errorf("send says %s", out)
	}
	secret := strings.TrimSpace(read(t, filepath.Join(data, secretFile)))
	u.end(t, syscall.SIGINT)
	if state := u.cmd.ProcessState; state.ExitCode() != 0 {
		t.Errorf("after Ctrl-C it ends with %s:\n%s", state, u.output())
	}
	wantStopped := func() {
		t.Helper()
		if _, errs := outputOf(t, 1, "send", "--data="+data, file); !strings.Contains(errs,
			"no intake up is running in "+data) {
			t.Errorf("without a stack, send says %q", errs)
		}
	}
	wantStopped()
	if _, err := os.Stat(filepath.Join(data, envFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", envFile, err)
	}

	for range 2 {
		u = startUp(t, data, "Ctrl-C")
		if out, _ := outputOf(t, 0, "send", "--data="+data, "--json", file); !strings.Contains(out,
			`"codes":{"duplicate_of_saved":3}`) {
			t.Errorf("send says %s", out)
		}
		u.end(t, syscall.SIGKILL)
		wantStopped() // although up.env is left behind
	}
	if again := strings.TrimSpace(read(t, filepath.Join(data, secretFile))); again != secret {
		t.Error("the demo partner has another secret after a restart")
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// An address that is taken is refused with the name of its flag.
func TestUp_AddressTaken(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	servers := []string{"--postgres-url=" + localtest.Postgres(t), "--nats-url=" + localtest.NATS(t),
		"--redis-url=" + localtest.Redis(t)}
	for _, flag := range []string{"--listen", "--admin-listen", "--worker-admin-listen"} {
		args := append([]string{"up", "--data=" + localtest.Dir(t), "--allow-unsafe",
			"--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--worker-admin-listen=127.0.0.1:0"}, servers...)
		_, errs := outputOf(t, 1, append(args, flag+"="+taken.Addr().String())...)
		if !strings.Contains(errs, "intake: "+flag+": ") || !strings.Contains(errs, "choose another address") {
			t.Errorf("with a taken %s it says %q", flag, errs)
		}
	}
}

// The curl that is printed works when it is pasted.
func TestUp_Curl(t *testing.T) {
	t.Parallel()
	data := localtest.Dir(t)
	u := startUp(t, data, "Ctrl-C")
	lines := regexp.MustCompile(`(?m)^  (\. |TOKEN=|curl ).*$`).FindAllString(u.output(), -1)
	if len(lines) != 3 {
		t.Fatalf("found %q in:\n%s", lines, u.output())
	}
	// What was sourced reaches commands as well.
	lines = append(lines, "env")
	shell := exec.CommandContext(t.Context(), "sh", "-c", strings.Join(lines, "\n"))
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	for _, want := range []string{`"state":"Completed"`, "INTAKE_POSTGRES_URL=postgres://", "INTAKE_NATS_URL=nats://"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the lines print no %s: %s", want, out)
		}
	}
}

// A partner is added, listed, given a new secret and shut out, and a running
// front knows within 5 s.
func TestPartner(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	url := "--postgres-url=" + s.flags.PostgresURL
	var added struct {
		ID     string `json:"client_id"`
		Secret string `json:"client_secret"`

		OldUntil *time.Time `json:"old_secret_until"`
	}
	out, _ := outputOf(t, 0, "partner", url, "--json", "add", "beta", "--currency=EUR", "--entity-types=A,B")
	if err := json.Unmarshal([]byte(out), &added); err != nil || added.ID != "beta" || len(added.Secret) != 43 {
		t.Fatalf("%v: %s", err, out)
	}
	for _, wrong := range [][]string{{"add", "beta", "--currency=EUR"}, {"add", "Beta!", "--currency=EUR"},
		{"add", "gamma", "--currency=XYZW"}, {"disable", "nobody"}, {"rotate", "nobody"},
		{"rotate", "beta", "--overlap=-1s"}} {
		if _, errs := outputOf(t, 1, append([]string{"partner", url}, wrong...)...); !strings.HasPrefix(errs,
			"intake: ") {
			t.Errorf("%v: %s", wrong, errs)
		}
	}
	s.wantToken(t, "beta", added.Secret, true)
	first := added.Secret
	out, _ = outputOf(t, 0, "partner", url, "--json", "rotate", "beta")
	if err := json.Unmarshal([]byte(out), &added); err != nil || added.Secret == first || added.OldUntil == nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.wantToken(t, "beta", added.Secret, true)
	s.wantToken(t, "beta", first, true)
	until := added.OldUntil.Format(time.DateTime)
	for _, args := range [][]string{{"list"}, {"show", "beta"}} {
		if out, _ := outputOf(t, 0, append([]string{"partner", url}, args...)...); !strings.Contains(out, until) {
			t.Errorf("%v does not say that the old secret ends at %s:\n%s", args, until, out)
		}
	}
	second := added.Secret
	added.OldUntil = nil
	out, _ = outputOf(t, 0, "partner", url, "--json", "rotate", "beta", "--overlap=0")
	if err := json.Unmarshal([]byte(out), &added); err != nil || added.OldUntil != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.wantToken(t, "beta", first, false)
	s.wantToken(t, "beta", second, false)
	s.wantToken(t, "beta", added.Secret, true)
	client := s.client(t.Context(), s.fronts[0], "beta", added.Secret)
	if a, err := post(t.Context(), client, s.fronts[0], []byte(`[{"partner_client_id":"x","entity_type":"A"}]`),
		""); err != nil || a.http != http.StatusOK {
		t.Fatalf("%+v %v", a, err)
	}
	outputOf(t, 0, "partner", url, "disable", "beta")
	s.wantToken(t, "beta", added.Secret, false)
	if a, err := post(t.Context(), client, s.fronts[0], []byte(`[{"partner_client_id":"y","entity_type":"A"}]`),
		""); err != nil || a.http != http.StatusUnauthorized {
		t.Errorf("a token of before: %+v %v", a, err)
	}
	if out, _ := outputOf(t, 0, "partner", url,
		"list"); !regexp.MustCompile(`beta .* EUR .* A, B .* disabled`).MatchString(out) {
		t.Errorf("the list:\n%s", out)
	}
}

// wantToken waits until a partner gets a token at every front, or none, for at most 5 s.
func (s *stack) wantToken(t *testing.T, partner, secret string, want bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for _, f := range s.fronts {
		for {
			config := credentials(f.url(), partner, secret)
			// One question a time: too many wrong secrets would shut everybody here out.
			config.AuthStyle = oauth2.AuthStyleInHeader
			_, err := config.Token(t.Context())
			if answer := (*oauth2.RetrieveError)(nil); err != nil && !errors.As(err, &answer) {
				t.Fatal(err)
			}
			if (err == nil) == want {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("after 5 s a token for %s is answered with: %v", partner, err)
			}
			<-time.After(500 * time.Millisecond)
		}
	}
}

// --help says the flags' variables and defaults.
func TestHelp(t *testing.T) {
	t.Parallel()
	for command, wants := range map[string][]string{
		"front": {"$INTAKE_POSTGRES_URL", "$INTAKE_LISTEN", "127.0.0.1:8080", "$INTAKE_MAX_INFLIGHT_BYTES",
			"268435456", "$INTAKE_SHUTDOWN_TIMEOUT", "10s"},
		"worker": {"$INTAKE_NATS_URL", "$INTAKE_SAVERS", "$INTAKE_ACK_WAIT", "10s"},
		"up":     {"$INTAKE_DATA", ".intake", "$INTAKE_DEMO"},
		"send":   {"$INTAKE_URL", "$INTAKE_CLIENT_ID", "$INTAKE_CLIENT_SECRET"},
	} {
		out, _ := outputOf(t, 0, command, "--help")
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("%s --help lacks %s:\n%s", command, want, out)
			}
		}
	}
	if out, _ := outputOf(t, 0, "version"); !strings.HasPrefix(out, "intake ") {
		t.Errorf("version says %q", out)
	}
}

// Migrate can be run again and again, and says what it did.
func TestMigrate(t *testing.T) {
	t.Parallel()
	url := "--postgres-url=" + localtest.Postgres(t)
	files, err := os.ReadDir("../../sink/migrations")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("version %d, %[1]d migrations taken", len(files)),
		" 0 migrations taken"} {
		if out, _ := outputOf(t, 0, "migrate", url); !strings.Contains(out, want) {
			t.Errorf("migrate says %q, want %q", out, want)
		}
	}
	if _, errs := outputOf(t, 1, "migrate",
		"--postgres-url=postgres://nobody:secret@127.0.0.1:1/none"); strings.Contains(errs, "secret@") {
		t.Errorf("the error shows the password: %s", errs)
	}
}
