package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"intake/internal/client"
	"intake/internal/sleep"
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

// exchangeStream sends batches as a stream, and reads their answers. It returns how
// many of the batches were sent.
func (l *load) exchangeStream(ctx context.Context, front string, batches []*batch, prefer string,
	pauses time.Duration) (sent int) {
	if _, err := l.tokens.Token(ctx); err != nil {
		return 0
	}
	read, write := io.Pipe()
	l.count()
	var writing sync.WaitGroup
	writing.Go(func() {
		defer write.Close()
		for _, b := range batches {
			sent++
			b.sent = time.Since(l.began)
			if _, err := io.WriteString(write, b.body()+"\n"); err != nil || !sleep.For(ctx, pauses) {
				return
			}
		}
	})
	defer func() {
		read.Close()
		writing.Wait()
	}()
	stream, err := l.clients[front].Stream(ctx, read, prefer)
	var problem *client.Problem
	var token *client.TokenError
	switch {
	case err == nil:
		defer stream.Close()
		l.readStream(batches, stream)
	case errors.As(err, &token) || !errors.As(err, &problem):
	case problem.Status == http.StatusServiceUnavailable:
		for _, b := range batches {
			l.refuse(b)
		}
	default:
		l.complain("a stream is answered %d", problem.Status)
	}
	return
}

// readStream reads the answers, a line each. A front that ends a stream says so in a
// last line, and has taken none of the batches after those that it answered.
func (l *load) readStream(batches []*batch, stream *client.Stream) {
	ended := false
	for i := 0; ; i++ {
		answer, err := stream.Next()
		if errors.Is(err, io.EOF) {
			if i < len(batches) && !ended {
				l.complain("a stream of %d lines ends well after %d answers", len(batches), i)
				return
			}
			for _, b := range batches[min(i, len(batches)):] {
				l.refuse(b)
			}
			return
		}
		status, text, err := outcome(answer, err)
		if err != nil {
			return // it was cut off
		}
		if ended = status == http.StatusServiceUnavailable; ended && i == len(batches) {
			continue
		}
		if i >= len(batches) {
			l.complain("a stream of %d lines has another answer: %s", len(batches), text)
			return
		}
		b := batches[i]
		if ended {
			l.refuse(b)
			continue
		}
		b.told = time.Since(l.began)
		l.read(b, bytes.TrimSpace(text))
	}
}
