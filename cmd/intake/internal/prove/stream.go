package prove

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
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
	defer func() {
		for _, b := range batches {
			l.keep(b)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	read, write := io.Pipe()
	defer read.Close()
	request, err := l.request(ctx, http.MethodPost, l.stack.fronts[random.IntN(2)]+"/api/v1/clients", read)
	if err != nil { // no token: nothing is sent
		for _, b := range batches {
			l.refuse(b)
		}
		return
	}
	request.Header.Set("Content-Type", "application/x-ndjson")
	request.Header.Set("Prefer", "wait=5")
	l.count()
	go func() {
		for _, b := range batches {
			if _, err := io.WriteString(write, b.body+"\n"); err != nil || !sleep(ctx, pauses) {
				break
			}
		}
		write.Close()
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
}

// readStream reads the answers, a line each. A front that ends a stream says so
// in a last line, and has taken nothing that comes after what it has answered.
func (l *load) readStream(batches []*batch, answers io.Reader) {
	lines := bufio.NewReader(answers)
	ended := false
	for i := 0; ; i++ {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 && (i == len(batches) || ended) {
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
