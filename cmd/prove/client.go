package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/oauth2"

	"intake/internal/client"
	"intake/internal/sleep"
)

// anyFront gets tokens of any front: all of them accept it.
type anyFront []*client.Client

// Token returns the token of the first front that issues one.
func (f anyFront) Token(ctx context.Context) (token *oauth2.Token, err error) {
	for _, front := range f {
		asking, cancel := context.WithTimeout(ctx, 2*time.Second)
		token, err = front.Token(asking)
		cancel()
		if err == nil {
			break
		}
	}
	return token, err
}

// connect makes a client of each front, through the links and direct.
func (l *load) connect() error {
	for _, front := range l.stack.fronts {
		c, err := client.New(client.Options{
			URL: front, ClientID: partnerName, ClientSecret: l.stack.secret, Transport: http.DefaultTransport,
		})
		if err != nil {
			return err
		}
		l.tokens = append(l.tokens, c)
	}
	l.clients = make(map[string]*client.Client)
	for _, urls := range [][]string{l.stack.fronts, l.stack.direct} {
		for _, url := range urls {
			c, err := client.New(client.Options{URL: url, Tokens: l.tokens, Transport: http.DefaultTransport})
			if err != nil {
				return err
			}
			l.clients[url] = c
		}
	}
	return nil
}

// post sends a batch. The status is 200 for any answer that is no refusal. An
// error means that the batch may have been sent and saved.
func (l *load) post(ctx context.Context, front string, b *batch, prefer string) (status int, text []byte, err error) {
	opts := client.BatchOptions{Prefer: prefer, IdempotencyKey: b.key}
	answer, err := l.clients[front].Create(ctx, []byte(b.body()), opts)
	if token := (*client.TokenError)(nil); errors.As(err, &token) {
		return http.StatusServiceUnavailable, nil, nil // nothing was sent
	}
	l.count()
	return outcome(answer, err)
}

// outcome returns the answer that has come, refusals and malformed ones included.
// The error is that there is none.
func outcome(answer *client.Answer, failed error) (status int, text []byte, err error) {
	var problem *client.Problem
	var malformed *client.MalformedError
	switch {
	case errors.As(failed, &problem):
		return problem.Status, problem.Body, nil
	case errors.As(failed, &malformed):
		return http.StatusOK, malformed.Body, nil
	case failed != nil:
		return 0, nil, failed
	}
	return http.StatusOK, answer.Body, nil
}

// postUntilAnswered sends a batch, when all faults are over, until it is taken or
// refused for good.
func (l *load) postUntilAnswered(ctx context.Context, front string, b *batch) (status int, text []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		status, text, err = l.post(ctx, front, b, "wait=30")
		switch {
		case err != nil: // it may have been saved
			lost := l.newBatch(b.items)
			lost.sent, lost.told = b.sent, time.Since(l.began)
			l.keep(lost)
		case status != http.StatusServiceUnavailable && status != http.StatusConflict:
			return status, text, nil
		}
		if !sleep.For(ctx, 100*time.Millisecond) {
			return 0, nil, fmt.Errorf("a batch (Idempotency-Key %q) is not answered: %d %.200s (%v)", b.key, status,
				text, err)
		}
	}
}

func (l *load) count() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests++
}

func (l *load) countRequests() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.requests
}
