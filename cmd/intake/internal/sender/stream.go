package sender

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/sync/errgroup"
)

// streamAhead is how many batches are written to a stream before the first of
// them is answered: more than a front has in flight.
const streamAhead = 16

// Stream sends all batches of the files over one connection, and reports each. A
// batch whose line is not answered in the end, or not with final states, is sent
// again as a request of its own; so is what a stream that breaks has left, after
// which there is another stream.
func (s *Sender) Stream(ctx context.Context, files []string, report *Report) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	batches := make(chan Batch)
	read := make(chan error, 1)
	go func() {
		defer close(batches)
		var failed error
		for _, file := range files {
			failed = errors.Join(failed, Batches(file, report.read, func(batch Batch) bool {
				select {
				case batches <- batch:
					return true
				case <-ctx.Done():
					return false
				}
			}))
		}
		read <- failed
	}()
	for first := range batches {
		if err := s.streamOnce(ctx, first, batches, report); err != nil {
			return err
		}
	}
	return <-read
}

// streamOnce sends batches until there are no more, or until the stream ends: also
// one on which nothing has come or gone for as long as a request may take.
func (s *Sender) streamOnce(ctx context.Context, first Batch, batches <-chan Batch, report *Report) error {
	body, send := io.Pipe()
	sent := make(chan Batch, streamAhead) // in order, those that aren't answered
	ended := make(chan struct{})          // the stream is read no more
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(s.opts.Concurrency + 1)
	streamCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(s.client.Timeout, cancel)
	defer silence.Stop()
	group.Go(func() error {
		defer close(sent)
		defer send.Close()
		for batch, ok := first, true; ok; {
			select {
			case sent <- batch:
			case <-ended:
				return s.sendBatch(ctx, batch, report)
			}
			var line bytes.Buffer
			if err := json.Compact(&line, batch.Items); err != nil {
				return err
			}
			line.WriteByte('\n')
			if _, err := send.Write(line.Bytes()); err != nil {
				return nil // the batch is among those that aren't answered
			}
			silence.Reset(s.client.Timeout)
			select {
			case batch, ok = <-batches:
			case <-ended:
				return nil
			}
		}
		return nil
	})
	err := s.readAnswers(streamCtx, body, func(answer *Answer) error {
		silence.Reset(s.client.Timeout)
		batch, ok := <-sent
		switch {
		case !ok:
			return nil // the line that says why the stream ends
		case answer != nil:
			return report.add(batch, answer)
		}
		group.Go(func() error { return s.sendBatch(ctx, batch, report) })
		return nil
	})
	close(ended)
	body.CloseWithError(io.ErrClosedPipe)
	for batch := range sent {
		if err == nil {
			group.Go(func() error { return s.sendBatch(ctx, batch, report) })
		}
	}
	return errors.Join(err, group.Wait())
}

// readAnswers sends a stream and calls each with the answers as they come, nil for
// one that isn't final. A stream that breaks is no error: the batches without an
// answer are told by that.
func (s *Sender) readAnswers(ctx context.Context, body io.Reader, each func(*Answer) error) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.opts.URL+"/api/v1/clients", body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-ndjson")
	request.Header.Set("Prefer", s.prefer())
	client := *s.client
	client.Timeout = 0 // a stream lasts
	response, err := client.Do(request)
	var credentials *oauth2.RetrieveError
	switch {
	case errors.As(err, &credentials):
		return fmt.Errorf("get a token: %w", err)
	case err != nil:
		return nil
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		if refusal := refusalOf(response); refusal.isGeneral() {
			return refusal
		}
		return nil
	}
	answers := bufio.NewReader(response.Body)
	for {
		line, err := answers.ReadBytes('\n')
		if err != nil {
			return nil
		}
		answer := new(Answer)
		if json.Unmarshal(line, answer) != nil || answer.Status != "Completed" {
			answer = nil // a problem, whose status is a number, or pending
		}
		if err := each(answer); err != nil {
			return err
		}
	}
}
