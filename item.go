package intake

import "github.com/google/uuid"

// Limits of the contract on a request.
const (
	MaxBodyBytes  = 32 << 20 // after decompression
	MaxBatchItems = 10_000
	MaxDepth      = 32  // levels of arrays and objects, the batch's own array included
	MaxIDChars    = 128 // of a partner_client_id
)

// A Batch is one request: its items, and the verdicts on them so far.
type Batch struct {
	// ID is a version 7 UUID, given when the batch is queued; nil until then.
	ID      uuid.UUID
	Partner Partner
	Items   []Item
	// Verdicts has one entry an item. The zero Verdict (CodePending) stands for
	// an item that nothing was decided of yet.
	Verdicts []Verdict
	// Claimant is who works on the batch of a request with an Idempotency-Key; nil
	// without one.
	Claimant *Claimant
}

// An Item is one element of a batch, decoded and validated.
type Item struct {
	// Raw is the item as it was sent, byte for byte: a part of the body.
	Raw []byte
	// Key is the item's partner_client_id if it is usable: a non-empty string,
	// given once. Items with a Key are compared with their like, valid or not;
	// an item without one ("") is in no group. A lone surrogate escape stands
	// in it as the three bytes that UTF-8 would use for it if it were allowed.
	Key string
	// Errors names every error of the item, each as "PATH: what is wrong",
	// joined with "; ". It is empty for a valid item.
	Errors string
	// Client is what a valid item says, and is not to be used of an invalid one.
	Client PartnerClient
}
