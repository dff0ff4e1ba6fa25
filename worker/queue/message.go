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

// messageVersion is the first byte of a message. Fields may be added without a
// new version: a reader skips those that it doesn't know. A new version is for
// messages that an older worker would misread.
const messageVersion = 1

// The fields of a message, after the version, in protobuf's wire format. A
// number is never used again for something else.
const (
	// fieldBase is what the batches of the message are named from; see nameBatch.
	fieldBase = 1
	// fieldReply is the subject on which the front waits for the outcomes.
	fieldReply = 2
	// fieldIndex is the place among the message's batches of the one that the
	// chunks after it belong to.
	fieldIndex = 3
	// fieldChunk is a chunk, with the fields below.
	fieldChunk = 4
	// fieldKey is the SHA-256 of the body and the Idempotency-Key of the request
	// that the chunks after it belong to.
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
	// fieldRejected holds the verdicts that the front has given: s2, verdicts.
	fieldRejected = 7
	// fieldItems holds the chunk's items as sent: s2 of each one's length and
	// text. An empty text stands for an item that is too large for a message.
	fieldItems = 8
	// fieldClients holds the items to be saved: s2, see appendClients.
	fieldClients = 9
	// fieldRejectedKeys holds the keys of the rejected items: s2, each with its length.
	fieldRejectedKeys = 10
)

// maxBatches bounds the batches that share a message.
const maxBatches = 1 << 10

// nameBatch names the batch at a place in a message. Batches that wait at the
// same time are queued as one message, under one subject; so that one can find
// the message by the name of any of them, that name is the message's, with the
// place for its last two bytes.
func nameBatch(base uuid.UUID, index int) uuid.UUID {
	base[14], base[15] = byte(index>>8), byte(index)
	return base
}

// NewBatch makes an id for a batch, a UUID of version 7. A batch that has it when
// it is submitted is queued by itself.
func NewBatch() (uuid.UUID, error) { return newBase() }

// newBase makes the name of a message, a UUID of version 7.
func newBase() (uuid.UUID, error) {
	base, err := uuid.NewV7()
	return nameBatch(base, 0), err
}

// errNewer is of a message that a later version of the program has queued.
var ErrNewer = errors.New("the message is of a newer version than this worker can read")

// appendMessage appends the message of a run of chunks, each with what
// appendChunk has made of it.
func appendMessage(b []byte, base uuid.UUID, reply string, index int, holder *intake.Holder, datas ...[]byte) []byte {
	b = append(b, messageVersion)
	b = appendBytes(b, fieldBase, base[:])
	b = appendBytes(b, fieldReply, []byte(reply))
	return appendChunks(b, index, holder, datas...)
}

// appendChunks appends chunks of one batch to a message.
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

// appendChunk appends a chunk as it is in a message. items are the chunk's items
// as they were sent.
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

// A scratch holds a field on its way into a message, as it is and compressed.
type scratch struct{ plain, packed []byte }

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func (s *scratch) appendPacked(b []byte, field protowire.Number) []byte {
	s.packed = s2.Encode(s.packed[:cap(s.packed)], s.plain)
	return appendBytes(b, field, s.packed)
}

// release keeps the buffers for the next message, unless they are ones of a
// chunk that is larger than most.
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

// readMessage reads what is to be saved, and where to tell of it. The items as
// they were sent are for others. Errors other than errNewer mean that no worker
// will ever be able to read the message.
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

// eachChunk calls each with every chunk of a message as it is written there, and returns where to tell of them.
func eachChunk(data []byte, each func(batch uuid.UUID, holder *intake.Holder, text []byte) error) (reply string, err error) {
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
				return errors.New("the message lacks its name")
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

// readChunk reads a chunk as it is written in a message, without the fields skip.
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

// eachField reads fields, each of which is a number below 2^31 or a text; it
// passes over others.
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
				return fmt.Errorf("field %d: %d is out of bounds", field, number)
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

// checkPlace makes sure that a chunk has a place in a batch.
func checkPlace(chunk *intake.Chunk) error {
	switch {
	case chunk.Partner == 0 || chunk.Len == 0:
		return errors.New("the chunk lacks its partner or its length")
	case chunk.First > intake.MaxBatchItems || chunk.Len > intake.MaxBatchItems-chunk.First || chunk.Number >= chunk.Chunks || chunk.Chunks > intake.MaxBatchItems:
		return errors.New("the chunk covers more than a batch has")
	}
	return nil
}

// check makes sure that a chunk can't say more than it covers.
func check(chunk *intake.Chunk) error {
	if err := checkPlace(chunk); err != nil {
		return err
	}
	if len(chunk.RejectedKeys) == 0 { // of a version that did not send them
		chunk.RejectedKeys = make([]string, len(chunk.Rejected))
	}
	if len(chunk.RejectedKeys) != len(chunk.Rejected) {
		return errors.New("the chunk has not as many keys as rejected items")
	}
	for i := range chunk.Clients {
		if !chunk.Covers(chunk.Clients[i].Item) {
			return fmt.Errorf("item %d is not of this chunk", chunk.Clients[i].Item)
		}
	}
	for i := range chunk.Rejected {
		if !chunk.Covers(chunk.Rejected[i].Item) {
			return fmt.Errorf("item %d is not of this chunk", chunk.Rejected[i].Item)
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

// readTexts reads texts, each with its length before it.
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

// Verdicts are a list of the item's position, the code and the text.
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

// claimSize is a claim's: its two moments, its sum and its count at 8 bytes
// each, then the period with the sum's sign.
const claimSize = 4*8 + 1

const negative = 0x80

// appendClients gives clients in the form in which they are queued: how many
// claims all of them have together, then each client with its claims. It is
// made to be read with three allocations, and to compress well.
func appendClients(b []byte, clients []intake.PartnerClient) []byte {
	size, claims := 0, 0
	for i := range clients {
		c := &clients[i]
		size += 64 + len(c.ID) + len(c.EntityType) + len(c.OtherIdentifiers) + len(c.Claims)*claimSize
		claims += len(c.Claims)
	}
	b = slices.Grow(b, size)
	b = binary.AppendUvarint(b, uint64(len(clients)))
	b = binary.AppendUvarint(b, uint64(claims))
	for i := range clients {
		c := &clients[i]
		b = binary.AppendUvarint(b, uint64(c.Item))
		b = append(b, c.Fingerprint[:]...)
		b = binary.LittleEndian.AppendUint64(b, uint64(c.StartDate))
		b = protowire.AppendString(b, c.ID)
		b = protowire.AppendString(b, c.EntityType)
		b = protowire.AppendBytes(b, c.OtherIdentifiers)
		b = binary.AppendUvarint(b, uint64(len(c.Claims)))
		for j := range c.Claims {
			b = appendClaim(b, &c.Claims[j])
		}
	}
	return b
}

func appendClaim(b []byte, claim *intake.RevenueClaim) []byte {
	flags := byte(claim.Period)
	if claim.TotalAmount.Neg {
		flags |= negative
	}
	b = append(b, flags)
	b = binary.LittleEndian.AppendUint64(b, uint64(claim.Start))
	b = binary.LittleEndian.AppendUint64(b, uint64(claim.End))
	b = binary.LittleEndian.AppendUint64(b, claim.TotalAmount.Abs)
	return binary.LittleEndian.AppendUint64(b, uint64(claim.TransactionCount))
}

func readClients(b []byte) ([]intake.PartnerClient, error) {
	text := string(b) // one copy, of which all strings are parts
	r := reader{rest: b}
	str := func() string {
		n := r.number(len(b))
		at := len(b) - len(r.rest)
		if r.bytes(n) == nil {
			return ""
		}
		return text[at : at+n]
	}
	clients := make([]intake.PartnerClient, r.number(min(len(b), intake.MaxBatchItems)))
	claims := make([]intake.RevenueClaim, r.number(len(b)/claimSize))
	for i := range clients {
		c := &clients[i]
		c.Item = r.number(intake.MaxBatchItems)
		copy(c.Fingerprint[:], r.bytes(len(c.Fingerprint)))
		c.StartDate = intake.Timestamp(r.uint64())
		c.ID = str()
		c.EntityType = str()
		if identifiers := r.bytes(r.number(len(b))); len(identifiers) > 0 {
			c.OtherIdentifiers = identifiers
		}
		n := r.number(len(claims))
		if r.err != nil {
			return nil, r.err
		}
		c.Claims, claims = claims[:n:n], claims[n:]
		for j := range c.Claims {
			r.claim(&c.Claims[j])
		}
	}
	if len(r.rest) > 0 || len(claims) > 0 {
		r.fail()
	}
	return clients, r.err
}

// A reader takes values off a buffer. After the first one that isn't there it
// gives zero values only.
type reader struct {
	rest []byte
	err  error
}

var errCutShort = errors.New("the data is damaged or cut short")

func (r *reader) fail() { r.rest, r.err = nil, errCutShort }

// number gives a number of at most limit.
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

func (r *reader) claim(claim *intake.RevenueClaim) {
	b := r.bytes(claimSize)
	if b == nil {
		return
	}
	claim.Period = intake.Period(b[0] &^ negative)
	claim.TotalAmount.Neg = b[0]&negative != 0
	claim.Start = intake.Timestamp(binary.LittleEndian.Uint64(b[1:]))
	claim.End = intake.Timestamp(binary.LittleEndian.Uint64(b[9:]))
	claim.TotalAmount.Abs = binary.LittleEndian.Uint64(b[17:])
	claim.TransactionCount = int64(binary.LittleEndian.Uint64(b[25:]))
}

// memoryOf tells about how many bytes a chunk takes that was read from a
// message. Compressed it may be a thousand times smaller.
func MemoryOf(chunk *intake.Chunk) int {
	const client, claim, verdict = 112, 48, 40 // sizes of the structs
	n := 0
	for i := range chunk.Clients {
		c := &chunk.Clients[i]
		// readClients keeps what it was given, and a copy of it for the strings.
		n += client + 2*(len(c.ID)+len(c.EntityType)+len(c.OtherIdentifiers)) + (claim+claimSize)*len(c.Claims)
	}
	for i := range chunk.Rejected {
		n += verdict + len(chunk.Rejected[i].Text)
	}
	return n
}
