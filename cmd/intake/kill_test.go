package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"intake"
	"intake/internal/failpoint"
	"intake/internal/local"
	"intake/internal/local/localtest"
)

// natsEnv makes this test binary a NATS with its data in a folder.
const natsEnv = "INTAKE_TEST_NATS"

func runNATS(dir string) int {
	n, err := local.StartNATS(context.Background(), local.NATSOptions{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(n.URL())
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test is gone
	return 0
}

// A part is a process of a stack that may be killed, and is started again then.
type part struct {
	name string
	make func() *exec.Cmd
	up   func(context.Context) error // waits until it serves

	mu     sync.Mutex
	cmd    *exec.Cmd
	ended  chan struct{}
	err    error // how it has ended
	killed int
}

func (p *part) start(ctx context.Context, env ...string) error {
	cmd := p.make()
	cmd.Env = append(cmd.Env, env...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer stdin.Close()
		p.err = cmd.Wait()
	}()
	p.mu.Lock()
	p.cmd, p.ended = cmd, ended
	p.mu.Unlock()
	return p.up(ctx)
}

// waitEnd waits until the process has been killed.
func (p *part) waitEnd(ctx context.Context) error {
	select {
	case <-p.ended:
		p.killed++
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s was not killed", p.name)
	}
}

// end asks the process to end, and waits until it has.
func (p *part) end(ctx context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.ended:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("%s does not end", p.name)
	}
}

func (p *part) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// Every step between two effects at which a front, a worker or NATS may die.
var steps = []struct{ name, part, step string }{
	{"key reserved, batch not written", "front", "front/reserved"},
	{"about to publish", "front", "queue/publishing"},
	{"published, not heard", "front", "queue/published"},
	{"queued, nobody waits", "front", "front/queued"},
	{"final, answer not kept", "front", "front/decided"},
	{"answer kept, not given", "front", "front/kept"},
	{"taken from the queue", "worker", "worker/taken"},
	{"records written, status not", "worker", "sink/rows"},
	{"committed, nobody knows", "worker", "sink/committed"},
	{"fronts told, not acknowledged", "worker", "worker/told"},
	{"acknowledged, not marked as seen", "worker", "worker/acknowledged"},
}

// Processes are killed at each step in turn, and NATS in between, under load of
// batches that wait and that don't, with and without Idempotency-Key, over two
// fronts and two workers. Nothing that was accepted is missing, nothing is there
// twice, and a repeat gets the first answer, byte for byte.
func TestLong_Killed(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	s := startKillStack(ctx, t)
	load := newKillLoad(s)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for n := range 6 {
		clients.Go(func() { load.run(ctx, n, stop) })
	}
	load.waitForMore(t, ctx, 100)
	for n, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			victim := s.parts[step.part+" 1"]
			victim.kill()
			if err := victim.start(ctx, fmt.Sprintf("%s=%s:%d", failpoint.Env, step.step, 3+n%5)); err != nil {
				t.Fatal(err)
			}
			if err := victim.waitEnd(ctx); err != nil {
				t.Fatal(err)
			}
			if n%3 == 2 {
				s.parts["nats"].kill()
				if err := s.parts["nats"].start(ctx); err != nil {
					t.Fatal(err)
				}
			}
			if err := victim.start(ctx); err != nil {
				t.Fatal(err)
			}
			load.waitForMore(t, ctx, 100)
			load.auditFinal(t)
		})
	}
	close(stop)
	clients.Wait()
	if ctx.Err() != nil {
		t.Fatal("the load did not end in time")
	}
	load.audit(ctx)
	for _, p := range s.parts {
		p.kill()
	}
}

// A killStack is two fronts, two workers and NATS as processes of their own.
type killStack struct {
	*stack
	t      *testing.T
	binary string
	urls   []string // of the fronts
	parts  map[string]*part
}

func startKillStack(ctx context.Context, t *testing.T) *killStack {
	t.Helper()
	dir := localtest.Dir(t)
	s := &killStack{t: t, binary: filepath.Join(t.TempDir(), "intake"), parts: make(map[string]*part)}
	if out, err := exec.CommandContext(ctx, "go", "build", "-tags", "failpoints", "-o", s.binary,
		".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	natsURL := make(chan string, 1)
	nats := &part{name: "nats"}
	var out io.ReadCloser
	nats.make = func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), natsEnv+"="+dir)
		cmd.Stderr = os.Stderr
		var err error
		if out, err = cmd.StdoutPipe(); err != nil {
			t.Error(err)
		}
		return cmd
	}
	nats.up = func(context.Context) error {
		url, err := bufio.NewReader(out).ReadString('\n')
		select {
		case natsURL <- strings.TrimSpace(url):
		default:
		}
		return err
	}
	s.parts["nats"] = nats
	if err := nats.start(ctx); err != nil {
		t.Fatal(err)
	}
	// The stack makes the schema and the partner; its own parts are not used.
	s.stack = startStack(t, stackOptions{flags: serverFlags{NATSURL: <-natsURL, PostgresURL: localtest.Postgres(t)},
		none: true})
	flags := []string{"--postgres-url=" + s.flags.PostgresURL, "--nats-url=" + s.flags.NATSURL,
		"--redis-url=" + s.flags.RedisURL, "--queue-max-bytes=268435456", "--allow-unsafe"}
	for n := range 2 {
		front, admin := freeAddress(t), freeAddress(t)
		s.urls = append(s.urls, "http://"+front)
		s.add(ctx, fmt.Sprintf("front %d", n+1), "http://"+admin,
			append([]string{"front", "--listen=" + front, "--admin-listen=" + admin, "--public-url=http://intake.test"},
				flags...))
		admin = freeAddress(t)
		s.add(ctx, fmt.Sprintf("worker %d", n+1), "http://"+admin,
			append([]string{"worker", "--admin-listen=" + admin, "--ack-wait=2s"}, flags...))
	}
	t.Cleanup(func() {
		for _, p := range s.parts {
			p.kill()
		}
	})
	return s
}

func (s *killStack) add(ctx context.Context, name, admin string, args []string) {
	p := &part{name: name}
	p.make = func() *exec.Cmd {
		cmd := exec.Command(s.binary, append(args, "--log-level=error")...)
		cmd.Stderr = os.Stderr
		return cmd
	}
	p.up = func(ctx context.Context) error {
		for {
			response, err := http.Get(admin + "/readyz")
			if err == nil {
				response.Body.Close()
				if response.StatusCode == http.StatusOK {
					return nil
				}
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-p.ended: // already
				return nil
			case <-ctx.Done():
				return fmt.Errorf("%s is not ready: %w", name, ctx.Err())
			}
		}
	}
	s.parts[name] = p
	if err := p.start(ctx); err != nil {
		s.t.Fatal(err)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// A killLoad is what clients sent, and what they were told.
type killLoad struct {
	s *killStack
	// patient clients send again what was certainly not taken: by a front that
	// they could not connect to, or that said so.
	patient bool

	getting sync.Mutex
	held    *oauth2.Token // guarded by getting

	mu        sync.Mutex
	completed []string
	pending   []string          // answered 202, by id of the batch
	notSaved  []string          // of batches that were refused
	unknown   int               // items of batches without an answer
	unsure    error             // why the last one has none
	answers   map[string][]byte // the first answer in full to each Idempotency-Key
	bodies    map[string][]byte // by Idempotency-Key
	wrong     []string
}

func newKillLoad(s *killStack) *killLoad {
	return &killLoad{s: s, answers: make(map[string][]byte), bodies: make(map[string][]byte)}
}

func (l *killLoad) run(ctx context.Context, client int, stop <-chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		default:
		}
		ids := make([]string, 4)
		items := make([]string, len(ids))
		for i := range ids {
			ids[i] = fmt.Sprintf("%d-%d-%d", client, n, i)
			items[i] = itemOf(ids[i], 1)
		}
		key := ""
		if n%3 > 0 {
			key = fmt.Sprintf("key-%d-%d", client, n)
		}
		l.send(ctx, ids, []byte("["+strings.Join(items, ",")+"]"), key, []string{"wait=10", "respond-async"}[n/3%2])
	}
}

// send sends a batch; with a key until it is answered, over one front or the other.
func (l *killLoad) send(ctx context.Context, ids []string, body []byte, key, prefer string) {
	for try := 0; ctx.Err() == nil; try++ {
		status, text, err := l.post(ctx, l.s.urls[try%2], body, key, prefer)
		l.mu.Lock()
		switch {
		case err == nil && (status == http.StatusOK || status == http.StatusAccepted):
			l.note(ids, text)
			if key != "" {
				l.answers[key], l.bodies[key] = text, body
			}
			l.mu.Unlock()
			return
		case l.patient && (isDial(err) || err == nil && status == http.StatusServiceUnavailable):
		case key == "" && err != nil:
			l.unknown += len(ids)
			l.unsure = err
			l.mu.Unlock()
			return
		case key == "" && status == http.StatusServiceUnavailable:
			l.notSaved = append(l.notSaved, ids...)
			l.mu.Unlock()
			return
		case err == nil && status != http.StatusServiceUnavailable && status != http.StatusConflict:
			l.wrong = append(l.wrong, fmt.Sprintf("%d %s", status, text))
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// isDial reports whether an error is of making a connection.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func (l *killLoad) note(ids []string, text []byte) {
	var a answer
	if err := json.Unmarshal(text, &a); err != nil || len(a.Result) != len(ids) {
		l.wrong = append(l.wrong, fmt.Sprintf("%v: %s", err, text))
		return
	}
	for i := range a.Result {
		switch code := a.Result[i].Status.Code; code {
		case intake.CodeSaved:
			l.completed = append(l.completed, ids[i])
		case intake.CodePending:
			if !slices.Contains(l.pending[max(len(l.pending)-1, 0):], a.ID) {
				l.pending = append(l.pending, a.ID)
			}
		default:
			l.wrong = append(l.wrong, fmt.Sprintf("%s is %s: %s", ids[i], code, a.Result[i].Status.Reason))
		}
	}
}

// post returns an answer only if all of it arrived.
func (l *killLoad) post(ctx context.Context, url string, body []byte, key, prefer string) (status int, text []byte,
	err error) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	token, err := l.token(ctx)
	if err != nil {
		return http.StatusServiceUnavailable, nil, nil // nothing was sent
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/api/v1/clients", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	token.SetAuthHeader(request)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Prefer", prefer)
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	text, err = io.ReadAll(response.Body)
	return response.StatusCode, text, err
}

// token returns a token of any front: all of them take it.
func (l *killLoad) token(ctx context.Context) (*oauth2.Token, error) {
	l.getting.Lock()
	defer l.getting.Unlock()
	if l.held.Valid() {
		return l.held, nil
	}
	var failed error
	for _, url := range l.s.urls {
		token, err := credentials(url, "acme", l.s.secret).Token(ctx)
		if err == nil {
			l.held = token
			return token, nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, failed
}

// waitForMore waits until so many items more are Completed.
func (l *killLoad) waitForMore(t *testing.T, ctx context.Context, more int) {
	t.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.completed)
	}
	for want := count() + more; count() < want; {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%d items are Completed, waited for %d", count(), want)
		}
	}
}

// audit compares what was said with what is there.
func (l *killLoad) audit(ctx context.Context) {
	t := l.s.t
	t.Helper()
	l.auditFinal(t)
	// What was answered as pending becomes final, and each item Completed.
	for _, id := range l.pending {
		for {
			a := l.status(ctx, id)
			if a.Status == intake.Completed {
				for i := range a.Result {
					if a.Result[i].Status.Code != intake.CodeSaved {
						t.Errorf("batch %s: item %d is %s: %s", id, i, a.Result[i].Status.Code,
							a.Result[i].Status.Reason)
					}
				}
				break
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("batch %s is not final: %+v", id, a)
			}
		}
	}
	accepted := len(l.completed) + 4*len(l.pending)
	if n := l.s.count(t, "select count(*) from partner_clients"); n < accepted || n > accepted+l.unknown {
		t.Errorf("%d records, %d were accepted, and of %d nothing is known", n, accepted, l.unknown)
	}
	if n := l.s.count(t, "select count(*) from (select from partner_clients group by partner_id, partner_client_id having count(*) > 1) t"); n > 0 {
		t.Errorf("%d records are there twice", n)
	}
	if n, m := l.s.count(t, "select count(*) from revenue_claims"),
		l.s.count(t, "select count(*) from partner_clients"); n != m {
		t.Errorf("%d claims of %d records", n, m)
	}
	for key, first := range l.answers {
		status, text, err := l.post(ctx, l.s.urls[1], l.bodies[key], key, "wait=10")
		if err != nil || !bytes.Equal(text, first) {
			t.Errorf("%s: answered %d %s (%v), at first %s", key, status, text, err, first)
		}
	}
	t.Logf("%d items Completed, %d batches pending at first, %d items refused, %d unknown, %d keys", len(l.completed),
		len(l.pending), len(l.notSaved), l.unknown, len(l.answers))
}

// auditFinal holds the answers that are final for their items against the
// records, while the load goes on.
func (l *killLoad) auditFinal(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	completed, notSaved, wrong := slices.Clone(l.completed), slices.Clone(l.notSaved), slices.Clone(l.wrong)
	l.mu.Unlock()
	for i, text := range wrong {
		if t.Errorf("a wrong answer: %s", text); i == 5 {
			break
		}
	}
	if n := l.s.count(t, "select count(*) from saved_clients where partner_client_id = any($1) and claims = 1",
		completed); n != len(completed) {
		t.Errorf("%d records of %d items that were Completed", n, len(completed))
	}
	if n := l.s.count(t, "select count(*) from partner_clients where partner_client_id = any($1)", notSaved); n > 0 {
		t.Errorf("%d records of batches that were refused", n)
	}
}

func (l *killLoad) status(ctx context.Context, id string) (a answer) {
	token, err := l.token(ctx)
	if err != nil {
		return a
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.s.urls[0]+"/api/v1/clients/status/"+id, nil)
	if err != nil {
		return a
	}
	token.SetAuthHeader(request)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return a
	}
	defer response.Body.Close()
	_ = json.NewDecoder(response.Body).Decode(&a)
	return a
}
