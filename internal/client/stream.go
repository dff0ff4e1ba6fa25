package client

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
)

// A Stream is the answer to a stream of batches, a line for each. It is for one
// goroutine.
type Stream struct {
	body  io.ReadCloser
	lines *bufio.Reader
}

// Stream sends batches, a JSON array of items on a line of its own each, as they
// come from body, and returns when the answer begins. The errors are those of
// [Client.Create]. The caller closes the stream.
func (c *Client) Stream(ctx context.Context, body io.Reader, prefer string) (*Stream, error) {
	header := http.Header{"Content-Type": {"application/x-ndjson"}}
	if prefer != "" {
		header.Set("Prefer", prefer)
	}
	response, err := c.send(ctx, http.MethodPost, "/api/v1/clients", header, body)
	if err != nil {
		return nil, err
	}
	return &Stream{body: response.Body, lines: bufio.NewReader(response.Body)}, nil
}

// Next returns the answer to the next batch. The error is a [*Problem] if that
// batch was refused, or if the front ends the stream, and [io.EOF] after the last
// line.
func (s *Stream) Next() (*Answer, error) {
	line, err := s.lines.ReadBytes('\n')
	switch {
	case errors.Is(err, io.EOF) && len(line) > 0:
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	}
	return ParseAnswer(line)
}

// Close ends the stream.
func (s *Stream) Close() error { return s.body.Close() }
