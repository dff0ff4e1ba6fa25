package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// Fronts and workers are restarted one after the other, under load. Each ends by
// itself, with nothing broken off; no client that goes elsewhere when a front can't
// be reached, or says that it takes nothing, sees a request fail.
func TestLong_RollingRestart(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	s := startKillStack(ctx, t)
	load := newKillLoad(s)
	load.patient = true
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for n := range 6 {
		clients.Go(func() { load.run(ctx, n, stop) })
	}
	clients.Go(func() { load.runStreams(ctx, stop) })
	load.waitForMore(t, ctx, 100)
	for _, name := range []string{"front 1", "worker 1", "front 2", "worker 2"} {
		p := s.parts[name]
		if err := p.end(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		load.waitForMore(t, ctx, 50) // meanwhile the other one serves
		if err := p.start(ctx); err != nil {
			t.Fatal(err)
		}
		load.waitForMore(t, ctx, 50)
	}
	close(stop)
	clients.Wait()
	if ctx.Err() != nil {
		t.Fatal("the load did not end in time")
	}
	if load.unknown > 0 || len(load.notSaved) > 0 {
		t.Errorf("of %d items nothing is known (%v), %d were refused for good", load.unknown, load.unsure,
			len(load.notSaved))
	}
	load.audit(ctx)
}

// runStreams sends streams. When a front ends one, the rest goes on elsewhere.
func (l *killLoad) runStreams(ctx context.Context, stop <-chan struct{}) {
	var lines [][]string // the ids of each line's items
	for n, try := 0, 0; ctx.Err() == nil; try++ {
		for len(lines) < 20 {
			ids := make([]string, 4)
			for i := range ids {
				ids[i] = fmt.Sprintf("stream-%d-%d", n, i)
			}
			lines = append(lines, ids)
			n++
		}
		taken, err := l.stream(ctx, l.s.urls[try%2], lines)
		lines = lines[taken:]
		if err != nil && !isDial(err) {
			l.mu.Lock()
			l.wrong = append(l.wrong, fmt.Sprintf("a stream is broken off: %v", err))
			l.mu.Unlock()
			return
		}
		select {
		case <-stop:
			return // what is left was not taken
		default:
		}
	}
}

// stream sends lines with pauses, and tells how many of them were taken.
func (l *killLoad) stream(ctx context.Context, url string, lines [][]string) (taken int, err error) {
	token, err := l.token(ctx)
	if err != nil {
		return 0, nil // nothing was sent
	}
	read, write := io.Pipe()
	defer read.Close()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/api/v1/clients", read)
	if err != nil {
		return 0, err
	}
	token.SetAuthHeader(request)
	request.Header.Set("Content-Type", "application/x-ndjson")
	go func() {
		for _, ids := range lines {
			items := make([]string, len(ids))
			for i := range ids {
				items[i] = itemOf(ids[i], 1)
			}
			if _, err := io.WriteString(write, "["+strings.Join(items, ",")+"]\n"); err != nil {
				return
			}
			<-time.After(20 * time.Millisecond) // so that a front ends it in the middle
		}
		write.Close()
	}()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusServiceUnavailable {
		return 0, nil
	}
	answers := bufio.NewReader(response.Body)
	for {
		text, err := answers.ReadBytes('\n')
		if err == io.EOF && len(text) == 0 {
			return taken, nil
		}
		if err != nil {
			return taken, err
		}
		var problem struct {
			Status int `json:"status"`
		}
		if json.Unmarshal(text, &problem) == nil && problem.Status == http.StatusServiceUnavailable {
			return taken, nil
		}
		if taken == len(lines) {
			return taken, fmt.Errorf("an answer to no line: %s", text)
		}
		l.mu.Lock()
		l.note(lines[taken], text)
		l.mu.Unlock()
		taken++
	}
}
