package worker

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protowire"

	"intake"
)

// Logged is a chunk as the log has it.
type Logged struct {
	*intake.Chunk
	// Items are the chunk's items as they were sent; nil for one that was too
	// large to be kept.
	Items [][]byte
}

// ErrNoRoom is Logged's answer when there is no room for the batch in memory.
var ErrNoRoom = errors.New("there is no room for the batch in memory")

// memoryOfLogged is about what a chunk of the log takes in memory at most: the
// message, the items as they were sent, and what was decoded of them.
const memoryOfLogged = 2 * maxChunkBytes

// Logged gives a partner's batch as the log has it, in the order of its chunks;
// none if it isn't there, or not any more. Before it reads a chunk it asks for
// room for so many bytes.
func (q *Queue) Logged(ctx context.Context, partner intake.Partner, batch uuid.UUID, room func(bytes int64) bool) ([]Logged, error) {
	stream, err := q.js.Stream(ctx, StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	for _, lane := range []Lane{Waiting, Later} {
		prefix := subjectPrefix + lane.nameOf(&partner) + "." + partner.Name + "." + nameBatch(batch, 0).String() + "."
		if chunks, err := readLogged(ctx, stream, prefix, batch, room); err != nil || len(chunks) > 0 {
			return chunks, err
		}
	}
	return nil, nil
}

// readLogged reads the messages whose subjects begin with prefix, of a batch.
func readLogged(ctx context.Context, stream jetstream.Stream, prefix string, batch uuid.UUID, room func(bytes int64) bool) (chunks []Logged, err error) {
	for n := 0; n == 0 || len(chunks) > 0 && n < chunks[0].Chunks; n++ {
		if !room(memoryOfLogged) {
			return nil, ErrNoRoom
		}
		msg, err := stream.GetLastMsgForSubject(ctx, prefix+strconv.Itoa(n))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil, nil // purging goes from the first on
		}
		if err != nil {
			return nil, fmt.Errorf("read the log: %w", err)
		}
		if chunks, err = appendLogged(chunks, msg.Data, batch); err != nil {
			return nil, fmt.Errorf("read the log: message %s: %w", msg.Subject, err)
		}
	}
	return chunks, nil
}

// appendLogged appends the chunks of a batch that are in a message.
func appendLogged(chunks []Logged, data []byte, batch uuid.UUID) ([]Logged, error) {
	read, _, err := readMessage(data)
	if err != nil {
		return nil, err
	}
	next := 0
	err = eachField(data[1:], func(field protowire.Number, _ int, text []byte) error {
		if field != fieldChunk {
			return nil
		}
		chunk := read[next]
		next++
		if chunk.Batch != batch {
			return nil
		}
		items, err := readItems(text)
		if err == nil && len(items) != chunk.Len {
			err = errCutShort
		}
		chunks = append(chunks, Logged{chunk, items})
		return err
	})
	return chunks, err
}

// readItems reads the items as they were sent off a chunk in a message.
func readItems(chunk []byte) (items [][]byte, err error) {
	err = eachField(chunk, func(field protowire.Number, _ int, text []byte) (err error) {
		if field == fieldItems {
			if text, err = s2.Decode(nil, text); err == nil {
				items, err = readTexts(text)
			}
		}
		return err
	})
	return items, err
}
