package queue

import (
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"

	"intake"
)

// Bounds of a chunk. Chunks of a thousand items are what one transaction saves
// best, and small enough that savers share a large batch.
const (
	MaxChunkItems = 1_000
	maxChunkBytes = 4 << 20 // of items as sent
)

// ErrTooLarge is Submit's answer to a batch that has an item too large for a
// message of the queue.
var ErrTooLarge = errors.New("an item of the batch is too large to be queued")

// cut cuts a batch into chunks of consecutive items, each with maxBytes at most
// of items as sent, unless a single item is larger.
func cut(batch *intake.Batch, maxBytes int) []*intake.Chunk {
	var chunks []*intake.Chunk
	var chunk *intake.Chunk
	bytes := 0
	for i := range batch.Items {
		item := &batch.Items[i]
		// Verdicts don't count: cut again, for a request that is repeated, it must
		// come to the same chunks, though more may be known of the items by then.
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

// encode cuts a batch so that each chunk fits into a message of its own of at
// most maxPayload bytes, and encodes the chunks. An item that fits only without
// its text is queued without: the text is for status checks alone.
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
	return nil, nil, fmt.Errorf("%w: a message holds %d bytes", ErrTooLarge, maxPayload)
}

// mayFit reports whether the text of a single item may fit into a message. It spares
// the memory for packing what is as large as a whole body.
func mayFit(items []intake.Item, maxPayload int) bool {
	raw := items[0].Raw
	if len(items) > 1 || len(raw) <= maxPayload {
		return true
	}
	size := s2.EstimateBlockSize(raw)
	return 0 < size && size <= maxPayload
}

// overhead is more than a message takes beside its chunks: its headers, which
// count as payload, its name and its subject.
const MessageOverhead = 1 << 10
