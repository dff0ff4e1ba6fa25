package main

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"intake/internal/failpoint"
)

// A request is stopped between its reservation of a key and its judgement of the batch, and
// goes on when a repeat over another front has taken over and saved the batch, but has
// not answered yet. What it is told was seen is its own batch: it must not say so.
func TestLong_TakenOver(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s := startKillStack(ctx, t)
	load := newKillLoad(s)
	if _, err := load.token(ctx); err != nil {
		t.Fatal(err)
	}
	type given struct {
		status int
		text   []byte
		err    error
	}
	// send sends the batch over a front, again for as long as the answer is one of these.
	send := func(front int, again ...int) <-chan given {
		answered := make(chan given, 1)
		go func() {
			for {
				var g given
				g.status, g.text, g.err = load.post(ctx, s.urls[front], []byte("["+itemOf("a", 1)+"]"), "key",
					"wait=10")
				if g.err != nil || !slices.Contains(again, g.status) {
					answered <- g
					return
				}
			}
		}()
		return answered
	}
	first := s.stopAt(ctx, "front 1", "front/reserved")
	second := s.stopAt(ctx, "front 2", "front/gone-on")
	original := send(0, http.StatusServiceUnavailable)
	first.wait(ctx)
	repeat := send(1, http.StatusServiceUnavailable, http.StatusConflict)
	second.wait(ctx)
	if n := s.count(t, "select count(*) from partner_clients"); n != 1 {
		t.Fatalf("%d records when the repeat has saved the batch", n)
	}
	s.waitSeen(ctx)
	first.goOn()
	if g := <-original; g.err != nil || g.status != http.StatusConflict {
		t.Errorf("the original is answered %d %s (%v)", g.status, g.text, g.err)
	}
	second.goOn()
	g := <-repeat
	if g.err != nil || g.status != http.StatusOK || !strings.Contains(string(g.text), `"code":"saved"`) {
		t.Errorf("the repeat is answered %d %s (%v)", g.status, g.text, g.err)
	}
	if again := <-send(0, http.StatusServiceUnavailable); again.err != nil || !bytes.Equal(again.text, g.text) {
		t.Errorf("sent again, it is answered %d %s (%v)", again.status, again.text, again.err)
	}
}

// waitSeen waits until the seen set has something.
func (s *killStack) waitSeen(ctx context.Context) {
	s.t.Helper()
	options, err := redis.ParseURL(s.flags.RedisURL)
	if err != nil {
		s.t.Fatal(err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	for {
		keys, err := client.Keys(ctx, "intake:seen:*").Result()
		if len(keys) > 0 {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			s.t.Fatalf("the seen set stays empty (%v)", err)
		}
	}
}

// A stopped is a process of which a request stops at a step.
type stopped struct {
	t    *testing.T
	part *part
	file string // is there while it is stopped
}

// stopAt starts a part anew, so that the request that first reaches a step stops there.
func (s *killStack) stopAt(ctx context.Context, name, step string) *stopped {
	s.t.Helper()
	p := &stopped{s.t, s.parts[name], filepath.Join(s.t.TempDir(), "stopped")}
	p.part.kill()
	if err := p.part.start(ctx, failpoint.Env+"="+step, failpoint.EnvStop+"="+p.file); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// wait waits until the request has stopped.
func (p *stopped) wait(ctx context.Context) {
	p.t.Helper()
	for !p.is() {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			p.t.Fatalf("%s does not stop: %v", p.part.name, ctx.Err())
		}
	}
}

func (p *stopped) is() bool {
	_, err := os.Stat(p.file)
	return err == nil
}

// goOn lets the request go on.
func (p *stopped) goOn() {
	p.t.Helper()
	if err := os.Remove(p.file); err != nil {
		p.t.Fatal(err)
	}
}
