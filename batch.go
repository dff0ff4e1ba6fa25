package intake

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// Limits of the contract on a request.
const (
	MaxBodyBytes  = 32 << 20 // after decompression
	MaxBatchItems = 10_000
	MaxDepth      = 32  // levels of arrays and objects, the batch's own array included
	MaxIDChars    = 128 // of a partner_client_id
)

// A Batch is one request: its items, and the verdicts on them so far.
type Batch struct {
	// ID is a version 7 UUID that the batch gets when it is queued. It is nil before.
	ID      uuid.UUID
	Partner Partner
	Items   []Item
	// Verdicts has one entry per item. The zero Verdict ([CodePending]) is that of an
	// item that is not decided yet.
	Verdicts []Verdict
	// Holder is the request that holds the batch's Idempotency-Key; nil without one.
	Holder *Holder
}

// An Item is one element of a batch, decoded and validated.
type Item struct {
	// Raw is the item as it was sent, byte for byte. It is a part of the body.
	Raw []byte
	// Key is the item's partner_client_id if it is usable: a non-empty string that
	// the item has once. Items with the same Key are compared, valid or not; an item
	// without a Key ("") is compared with none. A lone surrogate escape is in the Key
	// as the three bytes that UTF-8 would encode it in if that were allowed.
	Key string
	// Errors names every error of the item, each as "PATH: what is wrong", joined
	// with "; ". It is empty for a valid item.
	Errors string
	// Client is the content of a valid item. It is undefined for an invalid one.
	Client PartnerClient
}

// A Chunk is a run of a batch's items that is queued, saved and answered as one. The
// chunks of a batch cover all of its items, without gaps.
type Chunk struct {
	// Batch is the batch's id, a version 7 UUID: the contract's status_check_id.
	Batch uuid.UUID
	// Number is the position among the batch's chunks, from 0 to Chunks-1.
	Number, Chunks int
	// Partner is the ID of the batch's partner, and Currency the one that was agreed
	// with it when the items were validated.
	Partner  int32
	Currency string
	// PartnerName is set if the partner's name comes from elsewhere than the data
	// store. The data store then saves the chunk only if its Partner has this name.
	PartnerName string
	// First is the position of the chunk's first item in the batch, and Len the number
	// of its items.
	First, Len int
	// Clients are the chunk's items that are to be saved, by ascending Item.
	Clients []PartnerClient
	// Rejected are the chunk's other items, by ascending Item. RejectedKeys are their
	// keys; see [Item].Key.
	Rejected     []ItemVerdict
	RejectedKeys []string
	// Holder is the request that holds the batch's Idempotency-Key; nil without one.
	Holder *Holder
}

// Covers reports whether the item at a position of the batch belongs to the chunk.
func (c *Chunk) Covers(item int) bool { return item >= c.First && item < c.First+c.Len }

// An Outcome is the final result of a chunk.
type Outcome struct {
	Batch uuid.UUID
	// Chunk, First and Len are the [Chunk]'s Number, First and Len.
	Chunk, First, Len int
	// Withdrawn is set if the chunk's request was refused as a whole before the chunk
	// was saved. Nothing of it may be saved then.
	Withdrawn bool
	// NotSaved has the verdict on each item that is not Completed, by ascending Item.
	// All other items of the chunk are Completed.
	NotSaved []ItemVerdict
}

// Finished is what the data store keeps of a chunk that has its [Outcome].
type Finished struct {
	Outcome
	// Chunks is the number of chunks of the batch.
	Chunks int
	// Keys has the key of each item of the chunk; see [Item].Key.
	Keys []string
}

// Saved is the data store's answer after it has committed chunks.
type Saved struct {
	// Outcomes has one entry per chunk, in the order in which the chunks were passed.
	Outcomes []Outcome
	// Keys are the keys of the chunks that the data store holds now, whether this
	// commit has saved them or another one.
	Keys []SavedKey
	// Timeline names the history of the data store that this commit is part of. A
	// restore or a failover begins another one.
	Timeline string
}

// A SavedKey is a partner's key, with the fingerprint of the data it was saved with.
type SavedKey struct {
	Partner     int32
	ID          string
	Fingerprint Fingerprint
}

// ErrUnsavable is wrapped by the error of a data store that answers, yet cannot save
// what it was passed. The error of an unreachable one does not wrap it.
var ErrUnsavable = errors.New("the data store cannot save this")

// An UnknownPartnerError is the error of saving a chunk whose partner the data store
// does not know. Nothing is saved then.
type UnknownPartnerError struct {
	ID   int32
	Name string
}

// Error implements error.
func (e *UnknownPartnerError) Error() string {
	return fmt.Sprintf("partner %s with the number %d is not in the data store: add it again, then run intake dead retry", e.Name, e.ID)
}
