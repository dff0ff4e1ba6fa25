package queue

import (
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"

	"intake"
)

// Bounds of a chunk. A transaction saves a thousand items at close to the best rate per item, and with
// chunks of that size several savers share a large batch.
const (
	// MaxChunkItems is the maximum number of items of a chunk.
	MaxChunkItems = 1_000
	maxChunkBytes = 4 << 20 // of items as sent
)

// ErrTooLarge is returned by [Queue.Submit] for a batch with an item that does not fit into a message.
var ErrTooLarge = errors.New("an item of the batch is too large to be queued")

// cut cuts a batch into chunks of consecutive items. Each has at most maxBytes of items as sent, or a
// single item that is larger.
func cut(batch *intake.Batch, maxBytes int) []*intake.Chunk {
	var chunks []*intake.Chunk
	var chunk *intake.Chunk
	bytes := 0
	for i := range batch.Items {
		item := &batch.Items[i]
		// Where to cut must not depend on verdicts: a repeat of a request has to get the same chunks,
		// even if more of its items are known to be duplicates by then.
		if chunk == nil || chunk.Len == MaxChunkItems || bytes+len(item.Raw) > maxBytes {
			chunk = &intake.Chunk{
				Number: len(chunks), Partner: batch.Partner.ID, Currency: batch.Partner.Currency, First: i,
				Clients: make([]intake.PartnerClient, 0, min(len(batch.Items)-i, MaxChunkItems)),
			}
			chunks = append(chunks, chunk)
			bytes = 0
		}
		chunk.Len++
		bytes += len(item.Raw)
		if batch.Verdicts[i].Code == intake.CodePending {
			chunk.Clients = append(chunk.Clients, item.Client)
		} else {
			chunk.Rejected = append(chunk.Rejected, intake.ItemVerdict{Item: i, Verdict: batch.Verdicts[i]})
			chunk.RejectedKeys = append(chunk.RejectedKeys, item.Key)
		}
	}
	for _, chunk := range chunks {
		chunk.Chunks = len(chunks)
	}
	return chunks
}

// encode cuts a batch into chunks that each fit into a message of maxPayload bytes, and encodes them. An
// item that fits only without its text is queued without it: only status checks need the text.
func encode(batch *intake.Batch, maxPayload int) (chunks []*intake.Chunk, datas [][]byte, err error) {
	const smallest = 1 << 10
	for maxBytes := maxChunkBytes; maxBytes >= smallest; maxBytes /= 4 {
		chunks = cut(batch, maxBytes)
		datas = make([][]byte, len(chunks))
		fits := true
		for i, chunk := range chunks {
			items := batch.Items[chunk.First : chunk.First+chunk.Len]
			if mayFit(items, maxPayload) {
				datas[i] = appendChunk(nil, chunk, items)
			}
			if chunk.Len == 1 && (datas[i] == nil || len(datas[i])+MessageOverhead > maxPayload) {
				datas[i] = appendChunk(nil, chunk, make([]intake.Item, 1))
			}
			if len(datas[i])+MessageOverhead > maxPayload {
				fits = false
				break
			}
		}
		if fits {
			return chunks, datas, nil
		}
	}
	return nil, nil, fmt.Errorf("%w: NATS accepts messages of %d bytes (max_payload)", ErrTooLarge, maxPayload)
}

// mayFit reports whether the text of a single item may fit into a message. It saves compressing a text
// as large as a whole body only to find out that it does not.
func mayFit(items []intake.Item, maxPayload int) bool {
	raw := items[0].Raw
	if len(items) > 1 || len(raw) <= maxPayload {
		return true
	}
	size := s2.EstimateBlockSize(raw)
	return 0 < size && size <= maxPayload
}

// MessageOverhead is an upper bound of the bytes that a message takes beside its chunks: its headers,
// which count as payload, its base and its subject.
const MessageOverhead = 1 << 10
