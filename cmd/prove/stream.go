package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// runStream sends batches as a stream, the lines with pauses between them, and
// reads the answers as they come.
func (l *load) runStream(ctx context.Context, random *rand.Rand, client, n int) {
	const most = 12
	batches := make([]*batch, 1+random.IntN(most))
	for i := range batches {
		batches[i] = l.newBatch(l.draw(random, client, most*n+i))
	}
	pauses := time.Duration(random.IntN(30)) * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	sent := l.exchangeStream(ctx, l.stack.fronts[random.IntN(2)], batches, "wait=5", pauses)
	for i, b := range batches {
		if i >= sent {
			l.refuse(b)
		}
		l.keep(b)
	}
}

// exchangeStream tells how many of the batches were sent.
func (l *load) exchangeStream(ctx context.Context, front string, batches []*batch, prefer string, pauses time.Duration) (sent int) {
	read, write := io.Pipe()
	request, err := l.request(ctx, http.MethodPost, front+"/api/v1/clients", read)
	if err != nil {
		return 0 // no token
	}
	request.Header.Set("Content-Type", "application/x-ndjson")
	request.Header.Set("Prefer", prefer)
	l.count()
	var writing sync.WaitGroup
	writing.Go(func() {
		defer write.Close()
		for _, b := range batches {
			sent++
			b.sent = time.Since(l.began)
			if _, err := io.WriteString(write, b.body()+"\n"); err != nil || !sleep(ctx, pauses) {
				return
			}
		}
	})
	defer func() {
		read.Close()
		writing.Wait()
	}()
	response, err := l.client.Do(request)
	if err != nil {
		return
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		l.readStream(batches, response.Body)
	case http.StatusServiceUnavailable:
		for _, b := range batches {
			l.refuse(b)
		}
	default:
		l.complain("a stream is answered %d", response.StatusCode)
	}
	return
}

// readStream reads the answers, a line each. A front that ends a stream says so
// in a last line, and has taken nothing that comes after what it has answered.
func (l *load) readStream(batches []*batch, answers io.Reader) {
	lines := bufio.NewReader(answers)
	ended := false
	for i := 0; ; i++ {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 {
			if i < len(batches) && !ended {
				l.complain("a stream of %d lines ends well after %d answers", len(batches), i)
				return
			}
			for _, b := range batches[min(i, len(batches)):] {
				l.refuse(b)
			}
			return
		}
		if err != nil {
			return // it was cut off
		}
		if ended = isProblem(line); ended && i == len(batches) {
			continue
		}
		if i >= len(batches) {
			l.complain("a stream of %d lines has another answer: %s", len(batches), line)
			return
		}
		b := batches[i]
		if ended {
			l.refuse(b)
			continue
		}
		b.told = time.Since(l.began)
		l.read(b, bytes.TrimSpace(line))
	}
}

// isProblem tells whether a line of an answer refuses something because the front
// cannot take it now.
func isProblem(line []byte) bool {
	var problem struct {
		Status int `json:"status"`
	}
	return json.Unmarshal(line, &problem) == nil && problem.Status == http.StatusServiceUnavailable
}
