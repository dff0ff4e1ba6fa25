package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap/zaptest"
	"golang.org/x/oauth2"
)

// A front takes the tokens of another server, which it finds by RFC 8414: here
// the built-in issuer of a front of another address.
func TestFront_ExternalIssuer(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	ctx := t.Context()
	start := func(issuer issuerFlags) *frontProcess { return s.startFront(t, frontCommand{issuerFlags: issuer}) }
	issuer := start(issuerFlags{})
	flags := issuerFlags{OAuthIssuer: issuer.url(), OAuthAudience: issuer.url(), OAuthPartnerClaim: "sub"}
	both := start(flags)
	flags.NoBuiltinIssuer = true
	external := start(flags)
	theirs, own := s.client(ctx, issuer, "acme", s.secret), s.client(ctx, both, "acme", s.secret)
	batch := func(id string) []byte {
		return []byte(`[{"partner_client_id": "` + id + `", "entity_type": "SoleTrader"}]`)
	}
	for _, c := range []struct {
		id     string
		client *http.Client
		front  *frontProcess
		status int
	}{
		{"a", theirs, both, 200},
		{"b", own, both, 200},
		{"c", theirs, external, 200},
		{"d", own, external, 401},
		{"e", own, issuer, 401},
	} {
		if a, err := post(ctx, c.client, c.front, batch(c.id), ""); err != nil || a.http != c.status {
			t.Errorf("%s: answered %+v %v, want %d", c.id, a, err, c.status)
		}
	}
	file := filepath.Join(t.TempDir(), "batch.json")
	for command, id := range map[string]string{"send": "f", "replay": "g"} {
		if err := os.WriteFile(file, batch(id), 0o600); err != nil {
			t.Fatal(err)
		}
		outputOf(t, 0, command, "--url="+external.url(), "--token-url="+issuer.url()+"/oauth/token", "--client-id=acme",
			"--client-secret="+s.secret, file)
	}
	if n := s.count(t, "select count(*) from saved_clients where partner = 'acme'"); n != 5 {
		t.Errorf("%d clients are saved, want 5", n)
	}
	_, err := credentials(external.url(), "acme", s.secret).Token(ctx)
	if retrieve := (*oauth2.RetrieveError)(nil); !errors.As(err, &retrieve) ||
		retrieve.Response.StatusCode != http.StatusNotFound {
		t.Errorf("a token of the built-in issuer, which is off: %v", err)
	}
}

// startFront starts one more front of a stack.
func (s *stack) startFront(t *testing.T, c frontCommand) *frontProcess {
	t.Helper()
	c.serverFlags, c.Listen, c.AdminListen = s.flags, "127.0.0.1:0", "127.0.0.1:0"
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	f, err := newFrontProcess(ctx, c, zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	if err := waitReady(ctx, f.health); err != nil {
		t.Fatal(err)
	}
	return f
}

// Flags that let nobody in, or anybody, stop the command at once.
func TestCommand_IssuerFlags(t *testing.T) {
	t.Parallel()
	for flags, says := range map[string]string{
		"front --no-builtin-issuer":                  "requires --oauth-issuer",
		"front --oauth-issuer=http://issuer.example": "must be https",
		"up --demo --no-builtin-issuer --data=DATA":  "--demo needs the built-in issuer",
	} {
		args := strings.Fields(strings.ReplaceAll(flags, "DATA", t.TempDir()))
		if args[0] == "front" {
			args = append(args, "--postgres-url=postgres://127.0.0.1:1/x", "--nats-url=nats://127.0.0.1:1",
				"--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0")
		}
		if _, stderr := outputOf(t, 1, args...); !strings.Contains(stderr, says) {
			t.Errorf("%s: %s", flags, stderr)
		}
	}
}
