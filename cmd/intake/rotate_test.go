package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"
)

// A tokenLoad gets tokens at one front, with each secret that must be good then,
// and sends with them at another, as with a token of each key from before.
type tokenLoad struct {
	s        *stack
	requests atomic.Int64

	mu       sync.Mutex
	secrets  []string        // guarded by mu, as are those below
	keys     map[string]bool // of the tokens, by kid
	held     []string        // one a key
	failures []string
}

func (l *tokenLoad) run(ctx context.Context, n int, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		if err := l.round(ctx, n, i); err != nil {
			l.mu.Lock()
			l.failures = append(l.failures, err.Error())
			l.mu.Unlock()
		}
	}
}

func (l *tokenLoad) round(ctx context.Context, n, i int) error {
	l.mu.Lock()
	secret := l.secrets[i%len(l.secrets)]
	l.mu.Unlock()
	token, err := credentials(l.s.fronts[n%2].url(), "acme", secret).Token(ctx)
	if err != nil {
		return err
	}
	l.hold(token.AccessToken)
	l.mu.Lock()
	tokens := append(slices.Clone(l.held), token.AccessToken)
	l.mu.Unlock()
	for _, token := range tokens {
		body := fmt.Appendf(nil, `[{"partner_client_id":"load-%d-%d","entity_type":"A"}]`, n, i)
		a, err := post(ctx, bearer(ctx, token), l.s.fronts[(n+1)%2], body, "")
		if err != nil || a.http != http.StatusOK && a.http != http.StatusAccepted {
			return fmt.Errorf("a batch is answered %d %s: %v", a.http, a.refused.Detail, err)
		}
		l.requests.Add(1)
	}
	return nil
}

// hold keeps a token if it is the first of its key.
func (l *tokenLoad) hold(token string) {
	parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	if err != nil {
		panic(err)
	}
	kid := parsed.Header["kid"].(string)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.keys[kid] {
		l.keys[kid] = true
		l.held = append(l.held, token)
	}
}

func bearer(ctx context.Context, token string) *http.Client {
	return oauth2.NewClient(ctx, oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token}))
}

func (l *tokenLoad) waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s after a minute", what)
		}
	}
}

// waitForMore waits for more requests than there were.
func (l *tokenLoad) waitForMore(t *testing.T) {
	t.Helper()
	before := l.requests.Load()
	l.waitFor(t, "more requests", func() bool { return l.requests.Load() > before+50 })
}

// sees waits until there is a token of a key.
func (l *tokenLoad) sees(t *testing.T, kid string) {
	t.Helper()
	l.waitFor(t, "token of the key "+kid, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.keys[kid]
	})
}

// Keys and secrets are changed under load, and no request is refused. A key that is
// dropped takes its tokens along, at all fronts.
func TestRotate_UnderLoad(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{fronts: 2, maxBacklog: time.Minute})
	url := "--postgres-url=" + s.flags.PostgresURL
	run := func(command string, args ...string) (said struct {
		ID     string `json:"kid"`
		Secret string `json:"client_secret"`
	}) {
		t.Helper()
		out, _ := outputOf(t, 0, append([]string{command, url, "--json"}, args...)...)
		if err := json.Unmarshal([]byte(out), &said); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return said
	}
	load := &tokenLoad{s: s, secrets: []string{s.secret}, keys: map[string]bool{}}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for n := range 4 {
		clients.Go(func() { load.run(t.Context(), n, stop) })
	}
	end := sync.OnceFunc(func() { close(stop); clients.Wait() })
	defer end()
	load.waitForMore(t)
	key := run("key", "rotate", "--after=10s")
	for range 2 { // the second time before the first overlap ends
		secret := run("partner", "rotate", "acme").Secret
		s.wantToken(t, "acme", secret, true)
		load.mu.Lock()
		load.secrets = append(load.secrets, secret)
		load.mu.Unlock()
		load.waitForMore(t)
	}
	load.sees(t, key.ID)
	load.waitForMore(t)
	end()
	if len(load.failures) > 0 || len(load.held) != 2 {
		t.Fatalf("%d keys; %d requests went well, %d failed: %q",
			len(load.held), load.requests.Load(), len(load.failures), load.failures[:min(len(load.failures), 3)])
	}

	run("partner", "rotate", "acme", "--overlap=0")
	for _, secret := range load.secrets {
		s.wantToken(t, "acme", secret, false)
	}
	if _, errs := outputOf(t, 1, "key", url, "drop", "--", key.ID); errs == "" {
		t.Error("the key that signs is dropped without --force")
	}
	run("key", "drop", "--force", "--", key.ID)
	s.wantRefused(t, load.held[1])
}

// wantRefused waits until all fronts refuse a token, for at most 5 s.
func (s *stack) wantRefused(t *testing.T, token string) {
	t.Helper()
	client := bearer(t.Context(), token)
	deadline := time.Now().Add(5 * time.Second)
	for _, f := range s.fronts {
		for {
			a, err := post(t.Context(), client, f, []byte(`[{"partner_client_id":"x","entity_type":"A"}]`), "")
			if err != nil {
				t.Fatal(err)
			}
			if a.http == http.StatusUnauthorized {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("after 5 s a token of a dropped key is answered %d", a.http)
			}
			<-time.After(100 * time.Millisecond)
		}
	}
}

// The keys are listed with what each is for.
func TestKey(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{none: true})
	url := "--postgres-url=" + s.flags.PostgresURL
	states := func() (states []string, ids []string) {
		t.Helper()
		out, _ := outputOf(t, 0, "key", url, "--json", "list")
		var keys []keyEntry
		if err := json.Unmarshal([]byte(out), &keys); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, k := range keys {
			states, ids = append(states, k.State), append(ids, k.ID)
		}
		return states, ids
	}
	outputOf(t, 1, "key", url, "rotate", "--after=9s")
	outputOf(t, 0, "key", url, "rotate")
	outputOf(t, 1, "key", url, "rotate") // one waits
	got, ids := states()
	if !slices.Equal(got, []string{"signs", "waits"}) {
		t.Fatalf("the keys: %v", got)
	}
	outputOf(t, 1, "key", url, "drop", "x")
	outputOf(t, 1, "key", url, "drop", "--", ids[0])
	out, _ := outputOf(t, 0, "key", url, "drop", "--force", "--", ids[0])
	if !strings.Contains(out, ids[0]+" is dropped") || !strings.Contains(out, ids[1]+" signs from") {
		t.Errorf("dropped: %s", out)
	}
	if out, _ := outputOf(t, 0, "key", url, "list"); !strings.Contains(out, ids[1]) || strings.Contains(out, ids[0]) {
		t.Errorf("the list:\n%s", out)
	}
}
