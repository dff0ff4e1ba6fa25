package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protowire"

	"intake"
	"intake/internal/sleep"
)

// A StoredChunk is a chunk as it is in the log or in a dead letter.
type StoredChunk struct {
	// Chunk has no clients, unless the text of an item is missing: then the clients have its key. If
	// the chunk cannot be read, Chunk has the batch and the number, and its place in the batch if
	// that can be read; otherwise Len is 0.
	*intake.Chunk
	// Items are the chunk's items as they were sent, or nil if they cannot be read. The text of an
	// item that was too large for a message is empty.
	Items [][]byte
}

// A Search is for the chunks of a partner's batch. Partner, Batch and Room are required.
type Search struct {
	Partner intake.Partner
	Batch   uuid.UUID
	// Skip, if not nil, reports whether the chunk with a number is not needed.
	Skip func(number int) bool
	// Decided, if not nil, reports whether the states of a chunk's items are known. Then neither they
	// nor the items' keys are read.
	Decided func(number int) bool
	// Sure makes the search fail where more may be stored than was found, as in a server that was
	// cut off from the others of its cluster. In a cluster that takes up to a second.
	Sure bool
	// Room reserves memory for a number of bytes, and reports whether there was enough; a negative
	// number releases memory.
	Room func(bytes int64) bool
}

// ErrNoRoom is returned if Room has no memory for the batch.
var ErrNoRoom = errors.New("not enough memory for the batch")

// Logged returns the chunks of a batch that are in the log, by number. It keeps room reserved for what it
// returns.
func (q *Queue) Logged(ctx context.Context, s Search) ([]StoredChunk, error) {
	return q.search(ctx, StreamName, SubjectPrefix, s)
}

// Buried returns the chunks of a batch that are among the dead letters, like Logged.
func (q *Queue) Buried(ctx context.Context, s Search) ([]StoredChunk, error) {
	return q.search(ctx, DeadStreamName, DeadSubjectPrefix, s)
}

// search finds chunks in a stream whose subjects begin with prefix.
func (q *Queue) search(ctx context.Context, name, prefix string, s Search) (chunks []StoredChunk, err error) {
	began := time.Now()
	stream, err := q.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) && !(s.Sure && name == StreamName) { // workers make the other one
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	// The lane is not known: a repeat may have been queued in another one.
	filter := prefix + "*." + s.Partner.Name + "." + nameBatch(s.Batch, 0).String() + ".*"
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return nil, fmt.Errorf("find batch %s in stream %s: %w", s.Batch, name, err)
	}
	for _, subject := range slices.SortedFunc(maps.Keys(info.State.Subjects), compareNumbers) {
		number := numberOf(subject)
		if s.Skip != nil && s.Skip(number) || len(chunks) > 0 && chunks[len(chunks)-1].Number == number {
			continue
		}
		if chunks, err = s.appendLast(ctx, chunks, stream, subject); err != nil {
			return nil, fmt.Errorf("read %s in stream %s: %w", subject, name, err)
		}
	}
	if s.Sure {
		if err := confirmLeader(ctx, stream, info, began); err != nil {
			return nil, fmt.Errorf("find batch %s in stream %s: %w", s.Batch, name, err)
		}
	}
	return chunks, nil
}

// confirmLeader returns nil if the server that answered with info was the leader of the stream at a
// moment before. A leader that was cut off from the others, or paused, takes itself for the leader
// for some seconds, and lacks what another one has stored since. So it must have heard from a
// majority after that moment: a replica that follows another leader would have deposed it.
func confirmLeader(ctx context.Context, stream jetstream.Stream, info *jetstream.StreamInfo, moment time.Time) error {
	if info.Cluster == nil || info.Config.Replicas <= 1 {
		return nil
	}
	leader := info.Cluster.Leader
	for {
		asked := time.Now()
		now, err := stream.Info(ctx)
		if err != nil {
			return fmt.Errorf("is %s still the leader: %w", leader, err)
		}
		if leader == "" || now.Cluster == nil || now.Cluster.Leader != leader {
			return errors.New("the stream's leader has changed")
		}
		heard := 0
		for _, replica := range now.Cluster.Replicas {
			if replica.Active > 0 && asked.Add(-replica.Active).After(moment) {
				heard++
			}
		}
		if heard >= now.Config.Replicas/2 {
			return nil
		}
		const pause = 100 * time.Millisecond // replicas are heard once a second, at least
		if !sleep.For(ctx, pause) {
			return fmt.Errorf("the stream's leader %s has heard from no majority of its replicas: %w", leader,
				ctx.Err())
		}
	}
}

// numberOf returns the number in a message's subject: that of its chunk, or 0 if it holds several batches.
func numberOf(subject string) int {
	number, _ := strconv.Atoi(subject[strings.LastIndexByte(subject, '.')+1:])
	return number
}

func compareNumbers(a, b string) int { return cmp.Compare(numberOf(a), numberOf(b)) }

// appendLast appends what the last message with a subject has of the batch. Room for the message itself is
// released once it is read.
func (s *Search) appendLast(
	ctx context.Context, chunks []StoredChunk, stream jetstream.Stream, subject string,
) ([]StoredChunk, error) {
	held := int64(LargestMessage)
	if !s.Room(held) {
		return chunks, ErrNoRoom
	}
	defer func() { s.Room(-held) }()
	msg, err := stream.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) { // it was purged meanwhile
		return chunks, nil
	}
	if err != nil {
		return chunks, err
	}
	if !s.Room(int64(len(msg.Data)) - held) {
		return chunks, ErrNoRoom
	}
	held = int64(len(msg.Data))
	return s.appendChunk(chunks, msg.Data, numberOf(subject))
}

// appendChunk appends what a message has of the batch. A message that cannot be read counts as the chunk
// with the number in its subject.
func (s *Search) appendChunk(chunks []StoredChunk, data []byte, number int) ([]StoredChunk, error) {
	skip := []protowire.Number{fieldClients}
	if s.Decided != nil && s.Decided(number) {
		skip = append(skip, fieldRejected, fieldRejectedKeys)
	}
	found := len(chunks)
	_, err := eachChunk(data, func(batch uuid.UUID, _ *intake.Holder, text []byte) error {
		if batch != s.Batch {
			return nil
		}
		if !s.Room(unpackedSize(text, skip)) {
			return ErrNoRoom
		}
		chunks = append(chunks, readStored(batch, number, text, skip))
		return nil
	})
	if errors.Is(err, ErrNoRoom) {
		return chunks, err
	}
	if err != nil && len(chunks) == found {
		chunks = append(chunks, StoredChunk{Chunk: &intake.Chunk{Batch: s.Batch, Number: number}})
	}
	return chunks, nil
}

// readStored decodes a chunk, as far as that is possible, except for the fields in skip.
func readStored(batch uuid.UUID, number int, text []byte, skip []protowire.Number) StoredChunk {
	chunk := &intake.Chunk{Batch: batch}
	err := readChunk(chunk, text, skip...)
	var items [][]byte
	if err == nil {
		items, err = readItems(text)
	}
	if err == nil && len(items) != chunk.Len {
		err = errCutShort
	}
	if err == nil && slices.ContainsFunc(items, func(item []byte) bool { return len(item) == 0 }) {
		err = readChunk(chunk, text)
	}
	if err != nil {
		return StoredChunk{Chunk: placeOf(chunk, batch, number)}
	}
	return StoredChunk{chunk, items}
}

// placeOf returns what is known of a chunk that cannot be read: its place in the batch, which is written
// ahead of its items, or else its number only.
func placeOf(chunk *intake.Chunk, batch uuid.UUID, number int) *intake.Chunk {
	if checkPlace(chunk) != nil || chunk.Number != number {
		return &intake.Chunk{Batch: batch, Number: number}
	}
	return &intake.Chunk{
		Batch: batch, Number: number, Chunks: chunk.Chunks, Partner: chunk.Partner, First: chunk.First, Len: chunk.Len,
	}
}

// unpackedSize returns the size of a chunk's fields when decompressed, except for those in skip.
func unpackedSize(text []byte, skip []protowire.Number) (size int64) {
	_ = eachField(text, func(field protowire.Number, _ int, packed []byte) error {
		switch field {
		case fieldItems, fieldRejected, fieldRejectedKeys, fieldClients:
			if n, err := s2.DecodedLen(packed); err == nil && !slices.Contains(skip, field) {
				size += int64(n)
			}
		}
		return nil
	})
	return size
}

// readItems returns the items as they were sent from an encoded chunk.
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

// ReadItems returns the items of a message as they were sent, as far as they can be read.
func ReadItems(message []byte) (items [][]byte) {
	if len(message) == 0 {
		return nil
	}
	_ = eachField(message[1:], func(field protowire.Number, _ int, text []byte) error {
		if field == fieldChunk {
			some, _ := readItems(text)
			items = append(items, some...)
		}
		return nil
	})
	return items
}

// ReadChunks returns the chunks of a message that was queued under subject, as far as they can be
// read, and reports whether these are all. A chunk that cannot be read has only its place in the
// batch: the items that it covers, which are written ahead of them.
func ReadChunks(message []byte, subject string) (chunks []*intake.Chunk, all bool) {
	all = true
	_, err := eachChunk(message, func(batch uuid.UUID, _ *intake.Holder, text []byte) error {
		chunk := &intake.Chunk{Batch: batch}
		if readChunk(chunk, text) != nil {
			chunk = placeOf(chunk, batch, numberOf(subject))
		}
		if chunk.Len == 0 {
			all = false
			return nil
		}
		chunks = append(chunks, chunk)
		return nil
	})
	return chunks, all && err == nil && len(chunks) > 0
}
