package sender

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"intake/internal/client"
)

// streamAhead is how many batches are written to a stream before the first of
// them is answered: more than a front has in flight.
const streamAhead = 16

// Stream sends all batches of the files over one connection, and reports each. A
// batch whose line gets no answer, or not one with final states, is sent again as a
// request of its own. When the stream breaks, so are its batches without an answer,
// and the next batches go over a new stream.
func (s *Sender) Stream(ctx context.Context, files []string, report *Report) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	batches := make(chan Batch)
	read := make(chan error, 1)
	go func() {
		defer close(batches)
		read <- eachBatch(ctx, files, report, func(batch Batch) bool {
			select {
			case batches <- batch:
				return true
			case <-ctx.Done():
				return false
			}
		})
	}()
	for first := range batches {
		if err := s.streamOnce(ctx, first, batches, report); err != nil {
			return err
		}
	}
	return <-read
}

// streamOnce sends batches until there are no more, or until the stream ends. It
// ends a stream on which nothing was sent or received for requestTimeout.
func (s *Sender) streamOnce(ctx context.Context, first Batch, batches <-chan Batch, report *Report) error {
	body, send := io.Pipe()
	sent := make(chan Batch, streamAhead) // in order, those without an answer yet
	ended := make(chan struct{})          // closed when the stream is no longer read
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(s.opts.Concurrency + 1)
	streamCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(requestTimeout, cancel)
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
				return nil // the batch is among those without an answer
			}
			silence.Reset(requestTimeout)
			select {
			case batch, ok = <-batches:
			case <-ended:
				return nil
			}
		}
		return nil
	})
	err := s.readAnswers(streamCtx, body, func(answer *client.Answer) error {
		silence.Reset(requestTimeout)
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
// one that isn't final. A stream that breaks is no error: its batches without an
// answer are sent again.
func (s *Sender) readAnswers(ctx context.Context, body io.Reader, each func(*client.Answer) error) error {
	stream, err := s.client.Stream(ctx, body, s.prefer())
	switch {
	case isGeneral(err):
		return err
	case err != nil:
		return nil
	}
	defer stream.Close()
	for {
		answer, err := stream.Next()
		var problem *client.Problem
		switch {
		case errors.As(err, &problem):
			answer = nil
		case err != nil:
			return nil
		case !answer.IsFinal():
			answer = nil
		}
		if err := each(answer); err != nil {
			return err
		}
	}
}
