package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// post gives an answer if all of it has come.
func (l *load) post(ctx context.Context, front string, b *batch, prefer string) (status int, text []byte, err error) {
	request, err := l.request(ctx, http.MethodPost, front+"/api/v1/clients", strings.NewReader(b.body()))
	if err != nil {
		return http.StatusServiceUnavailable, nil, nil // no token: nothing was sent
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Prefer", prefer)
	if b.key != "" {
		request.Header.Set("Idempotency-Key", b.key)
	}
	l.count()
	return l.do(request)
}

// postUntilAnswered sends a batch, when all is healed, until it is taken or refused
// for good.
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
		if !sleep(ctx, 100*time.Millisecond) {
			return 0, nil, fmt.Errorf("a batch (Idempotency-Key %q) is not answered: %d %.200s (%v)", b.key, status, text, err)
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

func (l *load) do(request *http.Request) (status int, text []byte, err error) {
	response, err := l.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	text, err = io.ReadAll(response.Body)
	return response.StatusCode, text, err
}

func (l *load) request(ctx context.Context, method, url string, body io.Reader) (*http.Request, error) {
	token, err := l.tokenOf(ctx)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	token.SetAuthHeader(request)
	return request, nil
}

// tokenOf gives a token of any front: all of them take it.
func (l *load) tokenOf(ctx context.Context) (*oauth2.Token, error) {
	l.getting.Lock()
	defer l.getting.Unlock()
	if l.token.Valid() {
		return l.token, nil
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Timeout: 2 * time.Second})
	var failed error
	for _, front := range l.stack.fronts {
		config := clientcredentials.Config{ClientID: partnerName, ClientSecret: l.stack.secret, TokenURL: front + "/oauth/token"}
		token, err := config.Token(ctx)
		if err == nil {
			l.token = token
			return token, nil
		}
		failed = err
	}
	return nil, failed
}
