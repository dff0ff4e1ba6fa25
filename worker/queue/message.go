package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/uuid"
	"github.com/klauspost/compress/s2"
	"google.golang.org/protobuf/encoding/protowire"

	"intake"
)

// messageVersion is the first byte of a message. New fields need no new version, as readers skip fields
// that they do not know. A new version is for messages that an older worker would misread.
//
// Why protobuf's wire format by hand: a message may be read by an older or a newer binary than it was
// written by, so fields have numbers, and unknown ones are skipped. protowire does that in a few
// lines. Generated code would as well, but it has a type of its own for each message, to be filled from
// ours and copied back. For the items to be saved of a chunk, 1,000 clients with a claim each, the
// encoding takes 0.1 ms and the decoding 3 allocations here, and 0.6 ms and 7,012 allocations with the
// code of protoc-gen-go for the same fields; the time to decode is about the same (BenchmarkClients, on
// one core). And a status check reads a chunk's place or its items as sent without decoding the rest,
// which generated code cannot.
const messageVersion = 1

// The fields of a message, after the version. A number is never reused.
const (
	// fieldBase is the UUID that the IDs of the message's batches derive from; see nameBatch.
	fieldBase = 1
	// fieldReply is the subject that the outcomes are sent to.
	fieldReply = 2
	// fieldIndex is the index, among the message's batches, of the one that the chunks after it
	// belong to.
	fieldIndex = 3
	// fieldChunk is a chunk, with the fields below.
	fieldChunk = 4
	// fieldKey is the SHA-256 of the body, and then the Idempotency-Key, of the request that the
	// chunks after it belong to.
	fieldKey = 5
)

// The fields of a chunk.
const (
	fieldNumber   = 1
	fieldChunks   = 2
	fieldPartner  = 3
	fieldCurrency = 4
	fieldFirst    = 5
	fieldLen      = 6
	// fieldRejected holds the verdicts that the front has reached: S2 of verdicts.
	fieldRejected = 7
	// fieldItems holds the chunk's items as sent: S2 of the length and text of each. The text of an
	// item that is too large for a message is empty.
	fieldItems = 8
	// fieldClients holds the items to be saved: S2 of what appendClients writes.
	fieldClients = 9
	// fieldRejectedKeys holds the keys of the rejected items: S2 of the length and text of each.
	fieldRejectedKeys = 10
)

// maxBatches is the maximum number of batches in a message.
const maxBatches = 1 << 10

// nameBatch returns the ID of the batch at an index of a message: the message's base with the index in
// its last two bytes. Since batches that are published together share a message and its subject, this is
// how a batch's ID leads to its message.
func nameBatch(base uuid.UUID, index int) uuid.UUID {
	base[14], base[15] = byte(index>>8), byte(index)
	return base
}

// NewBatch returns an ID for a batch, a UUID of version 7. A batch that has an ID when it is submitted
// gets a message of its own.
func NewBatch() (uuid.UUID, error) { return newBase() }

// newBase returns a base for a message, a UUID of version 7.
func newBase() (uuid.UUID, error) {
	base, err := uuid.NewV7()
	return nameBatch(base, 0), err
}

// ErrNewer is returned for a message that a later version of the program has queued.
var ErrNewer = errors.New("the message has a newer version than this worker can read")

// appendMessage appends a message with chunks of one batch, as appendChunk has encoded them.
func appendMessage(b []byte, base uuid.UUID, reply string, index int, holder *intake.Holder, datas ...[]byte) []byte {
	b = append(b, messageVersion)
	b = appendBytes(b, fieldBase, base[:])
	b = appendBytes(b, fieldReply, []byte(reply))
	return appendChunks(b, index, holder, datas...)
}

// appendChunks appends the chunks of another batch to a message.
func appendChunks(b []byte, index int, holder *intake.Holder, datas ...[]byte) []byte {
	b = appendNumber(b, fieldIndex, index)
	if holder != nil {
		b = appendBytes(b, fieldKey, append(holder.BodyHash[:], holder.Key...))
	}
	for _, data := range datas {
		b = appendBytes(b, fieldChunk, data)
	}
	return b
}

// appendChunk appends a chunk as it is in a message. items are the chunk's items as they were sent.
func appendChunk(b []byte, chunk *intake.Chunk, items []intake.Item) []byte {
	b = appendNumber(b, fieldNumber, chunk.Number)
	b = appendNumber(b, fieldChunks, chunk.Chunks)
	b = appendNumber(b, fieldPartner, int(chunk.Partner))
	b = appendBytes(b, fieldCurrency, []byte(chunk.Currency))
	b = appendNumber(b, fieldFirst, chunk.First)
	b = appendNumber(b, fieldLen, chunk.Len)
	s := scratches.Get().(*scratch)
	defer s.release()
	if len(chunk.Rejected) > 0 {
		s.plain = appendVerdicts(s.plain[:0], chunk.Rejected)
		b = s.appendPacked(b, fieldRejected)
		s.plain = s.plain[:0]
		for _, key := range chunk.RejectedKeys {
			s.plain = protowire.AppendString(s.plain, key)
		}
		b = s.appendPacked(b, fieldRejectedKeys)
	}
	s.plain = appendItems(s.plain[:0], items)
	b = s.appendPacked(b, fieldItems)
	s.plain = appendClients(s.plain[:0], chunk.Clients)
	return s.appendPacked(b, fieldClients)
}

// A scratch holds a field on its way into a message, plain and compressed.
type scratch struct{ plain, packed []byte }

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func (s *scratch) appendPacked(b []byte, field protowire.Number) []byte {
	s.packed = s2.Encode(s.packed[:cap(s.packed)], s.plain)
	return appendBytes(b, field, s.packed)
}

// release keeps the buffers for another message, unless they are unusually large.
func (s *scratch) release() {
	if cap(s.plain)+cap(s.packed) <= 4*maxChunkBytes {
		scratches.Put(s)
	}
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendBytes(b, v)
}

func appendNumber(b []byte, field protowire.Number, v int) []byte {
	b = protowire.AppendTag(b, field, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(v))
}

// ReadMessage returns what is to be saved of a message, and the subject that its outcomes are sent to.
// Errors other than [ErrNewer] mean that no worker will ever be able to read the message.
func ReadMessage(data []byte) (chunks []*intake.Chunk, reply string, err error) {
	reply, err = eachChunk(data, func(batch uuid.UUID, holder *intake.Holder, text []byte) error {
		chunk := &intake.Chunk{Batch: batch, Holder: holder}
		chunks = append(chunks, chunk)
		return readChunk(chunk, text)
	})
	if err == nil && len(chunks) == 0 {
		err = errors.New("the message has no chunks")
	}
	return chunks, reply, err
}

// eachChunk calls each with every chunk of a message, still encoded, and returns the subject for outcomes.
func eachChunk(
	data []byte, each func(batch uuid.UUID, holder *intake.Holder, text []byte) error,
) (reply string, err error) {
	if len(data) == 0 {
		return "", errors.New("the message is empty")
	}
	if data[0] > messageVersion {
		return "", ErrNewer
	}
	if data[0] == 0 {
		return "", errors.New("the message has no version")
	}
	var base uuid.UUID
	index := 0
	var holder *intake.Holder
	err = eachField(data[1:], func(field protowire.Number, number int, text []byte) (err error) {
		switch field {
		case fieldBase:
			base, err = uuid.FromBytes(text)
		case fieldReply:
			reply = string(text)
		case fieldIndex:
			index, holder = number, nil
		case fieldKey:
			holder, err = readKey(text)
		case fieldChunk:
			if base == uuid.Nil || index >= maxBatches {
				return errors.New("the message lacks its base")
			}
			err = each(nameBatch(base, index), holder, text)
		}
		return err
	})
	return reply, err
}

func readKey(text []byte) (*intake.Holder, error) {
	c := new(intake.Holder)
	if len(text) <= len(c.BodyHash) {
		return nil, errCutShort
	}
	c.Key = string(text[copy(c.BodyHash[:], text):])
	return c, nil
}

// readChunk decodes a chunk, except for the fields in skip.
func readChunk(chunk *intake.Chunk, data []byte, skip ...protowire.Number) error {
	err := eachField(data, func(field protowire.Number, number int, text []byte) (err error) {
		if slices.Contains(skip, field) {
			return nil
		}
		switch field {
		case fieldNumber:
			chunk.Number = number
		case fieldChunks:
			chunk.Chunks = number
		case fieldPartner:
			chunk.Partner = int32(number)
		case fieldCurrency:
			chunk.Currency = string(text)
		case fieldFirst:
			chunk.First = number
		case fieldLen:
			chunk.Len = number
		case fieldRejected:
			if text, err = s2.Decode(nil, text); err == nil {
				chunk.Rejected, err = readVerdicts(text)
			}
		case fieldRejectedKeys:
			if text, err = s2.Decode(nil, text); err == nil {
				chunk.RejectedKeys, err = readTexts(string(text))
			}
		case fieldClients:
			if text, err = s2.Decode(nil, text); err == nil {
				chunk.Clients, err = readClients(text)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	return check(chunk)
}

// eachField calls each with every field, which is a number below 2^31 or a text. Fields of other types
// are skipped.
func eachField(data []byte, each func(field protowire.Number, number int, text []byte) error) error {
	for len(data) > 0 {
		field, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		size := protowire.ConsumeFieldValue(field, kind, data)
		if size < 0 {
			return protowire.ParseError(size)
		}
		var err error
		switch kind {
		case protowire.VarintType:
			number, _ := protowire.ConsumeVarint(data)
			if number > 1<<31-1 {
				return fmt.Errorf("field %d: %d is out of range", field, number)
			}
			err = each(field, int(number), nil)
		case protowire.BytesType:
			text, _ := protowire.ConsumeBytes(data)
			err = each(field, 0, text)
		}
		if err != nil {
			return fmt.Errorf("field %d: %w", field, err)
		}
		data = data[size:]
	}
	return nil
}

// checkPlace returns an error unless the chunk has a possible place in a batch.
func checkPlace(chunk *intake.Chunk) error {
	switch {
	case chunk.Partner == 0 || chunk.Len == 0:
		return errors.New("the chunk lacks its partner or its length")
	case chunk.First > intake.MaxBatchItems || chunk.Len > intake.MaxBatchItems-chunk.First,
		chunk.Number >= chunk.Chunks || chunk.Chunks > intake.MaxBatchItems:
		return errors.New("the chunk covers more than a batch has")
	}
	return nil
}

// check returns an error if the chunk has a client or a verdict for an item outside it.
func check(chunk *intake.Chunk) error {
	if err := checkPlace(chunk); err != nil {
		return err
	}
	if len(chunk.RejectedKeys) == 0 { // written by a version that did not send them
		chunk.RejectedKeys = make([]string, len(chunk.Rejected))
	}
	if len(chunk.RejectedKeys) != len(chunk.Rejected) {
		return errors.New("the chunk has another number of keys than of rejected items")
	}
	for i := range chunk.Clients {
		if !chunk.Covers(chunk.Clients[i].Item) {
			return fmt.Errorf("item %d is outside the chunk", chunk.Clients[i].Item)
		}
	}
	for i := range chunk.Rejected {
		if !chunk.Covers(chunk.Rejected[i].Item) {
			return fmt.Errorf("item %d is outside the chunk", chunk.Rejected[i].Item)
		}
	}
	return nil
}

func appendItems(b []byte, items []intake.Item) []byte {
	size := 0
	for i := range items {
		size += binary.MaxVarintLen32 + len(items[i].Raw)
	}
	b = slices.Grow(b, size)
	for i := range items {
		b = protowire.AppendBytes(b, items[i].Raw)
	}
	return b
}

// readTexts returns texts that each follow their length.
func readTexts[T string | []byte](b T) (texts []T, err error) {
	for len(b) > 0 {
		n, size := binary.Uvarint([]byte(b[:min(len(b), binary.MaxVarintLen64)]))
		if size <= 0 || n > uint64(len(b)-size) {
			return nil, errCutShort
		}
		texts = append(texts, b[size:size+int(n)])
		b = b[size+int(n):]
	}
	return texts, nil
}

// appendVerdicts appends each verdict's item, code and text.
func appendVerdicts(b []byte, verdicts []intake.ItemVerdict) []byte {
	for i := range verdicts {
		b = binary.AppendUvarint(b, uint64(verdicts[i].Item))
		b = append(b, byte(verdicts[i].Code))
		b = protowire.AppendString(b, verdicts[i].Text)
	}
	return b
}

func readVerdicts(b []byte) ([]intake.ItemVerdict, error) {
	var verdicts []intake.ItemVerdict
	r := reader{rest: b}
	for len(r.rest) > 0 && r.err == nil {
		var v intake.ItemVerdict
		v.Item = r.number(intake.MaxBatchItems)
		if code := r.bytes(1); code != nil {
			v.Code = intake.Code(code[0])
		}
		v.Text = string(r.bytes(r.number(len(b))))
		verdicts = append(verdicts, v)
	}
	return verdicts, r.err
}

// A reader takes values off a buffer. After the first value that is not there, err is set and all
// further values are zero.
type reader struct {
	rest []byte
	err  error
}

var errCutShort = errors.New("the data is damaged or cut short")

func (r *reader) fail() { r.rest, r.err = nil, errCutShort }

// number returns a number of at most limit.
func (r *reader) number(limit int) int {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 || v > uint64(limit) {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return int(v)
}

func (r *reader) bytes(n int) []byte {
	if len(r.rest) < n || r.err != nil {
		r.fail()
		return nil
	}
	b := slices.Clip(r.rest[:n])
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uint64() uint64 {
	b := r.bytes(8)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}
