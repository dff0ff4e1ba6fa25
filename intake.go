// Package intake holds the words of the contract with the partners: an item of
// a batch, the partner client and the revenue claims in it, the state that an
// item gets, and the rules that decide it. It knows of no server and imports
// no other part of this project.
//
// The way of an item through the parts:
//
//	DecodeBatch      one pass over the request's body: is it JSON, where does
//	                 each item begin and end, what does it say, is it valid
//	dedupe.InBatch   which items of the batch are duplicates or in conflict
//	dedupe.SeenSet   which ones were saved before, as far as Redis knows
//	worker           queues the rest as chunks, and has them saved
//	sink             saves chunks in Postgres, exactly once
package intake

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// A Partner sends batches. Its name is its OAuth2 client id; everything it
// sends is kept under its ID, apart from all other partners' data.
type Partner struct {
	// ID is the partner's number in the data store: positive, never reused.
	ID int32
	// Name is unique, and fit to stand in a URL or a file name; see ValidPartnerName.
	Name string
	// Currency is the ISO 4217 code agreed at onboarding, e.g. "GBP".
	Currency string
	// EntityTypes lists what entity_type may be; empty means anything well-formed.
	EntityTypes []string
	// Disabled partners get no tokens, and those they hold are refused.
	Disabled bool
	Limits   Limits
}

// Limits are how much a partner may send, over all fronts together. Zero stands
// for no limit.
type Limits struct {
	// ItemsPerSecond is the rate in the long run, and Burst how many may come at
	// once when none came for a while: at least as many as the largest batch has.
	ItemsPerSecond, Burst int
	// Requests and Bytes bound the requests in flight, and what they hold.
	Requests int
	Bytes    int64
}

// A PartnerClient is a merchant as one valid item describes it, in the form in
// which it is queued and saved. Its strings may share memory with the body of
// the request that it was decoded from.
type PartnerClient struct {
	// Item is the position in the batch, from 0.
	Item int
	// ID is the partner_client_id: 1 to 128 characters.
	ID string
	// StartDate is the client_start_date, or NoTimestamp.
	StartDate Timestamp
	// EntityType is 1 to 64 ASCII letters and digits.
	EntityType string
	// OtherIdentifiers is the property's JSON text as sent, or nil when it was
	// left out or null.
	OtherIdentifiers []byte
	// Claims are in the order of the item, at most 1,000.
	Claims []RevenueClaim
	// Fingerprint of the item's data; see Fingerprint.
	Fingerprint Fingerprint
}

// A RevenueClaim is what a merchant turned over in one month or day. Its
// currency is the partner's.
type RevenueClaim struct {
	// Start and End are the first and the last moment of the period as sent.
	Start, End Timestamp
	Period     Period
	// TotalAmount and TransactionCount have the same sign, or one is zero.
	TotalAmount      Amount
	TransactionCount int64
}

// Period is the time_period of a revenue claim.
type Period uint8

// The periods that a claim may span.
const (
	Monthly Period = iota + 1
	Daily
)

// String gives the contract's spelling.
func (p Period) String() string {
	switch p {
	case Monthly:
		return "Monthly"
	case Daily:
		return "Daily"
	}
	return "unknown"
}

// A Chunk is a run of a batch's items that is queued, saved and answered as
// one. A batch's chunks cover all of its items, without gaps.
type Chunk struct {
	// Batch is the batch's id, a version 7 UUID: the contract's status_check_id.
	Batch uuid.UUID
	// Number counts the chunks of a batch, from 0 to Chunks-1.
	Number, Chunks int
	// Partner is the ID of the batch's partner, and Currency what it had agreed
	// when the items were validated.
	Partner  int32
	Currency string
	// PartnerName is the name of the partner, where it is known from elsewhere than by
	// its ID: then the data store saves the chunk only if the two belong together.
	PartnerName string
	// The chunk covers items First to First+Len-1 of the batch.
	First, Len int
	// Clients are the chunk's items that are to be saved, by ascending Item.
	Clients []PartnerClient
	// Rejected are the chunk's other items, by ascending Item, and RejectedKeys
	// their usable keys, "" where there is none; see Item.Key.
	Rejected     []ItemVerdict
	RejectedKeys []string
	// Claimant has the Idempotency-Key of the batch's request; nil without one.
	Claimant *Claimant
}

// Covers tells whether the chunk covers the item at a position of the batch.
func (c *Chunk) Covers(item int) bool { return item >= c.First && item < c.First+c.Len }

// An Outcome says how the items of a chunk ended. It is final.
type Outcome struct {
	Batch uuid.UUID
	// Chunk, First and Len are the Chunk's Number, First and Len.
	Chunk, First, Len int
	// Withdrawn says that the chunk was given up before it was saved, that its
	// request was refused as a whole, and that nothing of it may be saved.
	Withdrawn bool
	// NotSaved holds the verdict on each item that is not Completed, by
	// ascending Item. All others of the chunk are Completed.
	NotSaved []ItemVerdict
}

// Finished is what the data store keeps of a chunk that is finished.
type Finished struct {
	Outcome
	// Chunks is how many the batch has.
	Chunks int
	// Keys has the usable key of each item of the chunk, "" where there is none.
	Keys []string
}

// A Record is what the data store keeps of a partner client, beside its data.
type Record struct {
	ID          string // the partner_client_id
	Fingerprint Fingerprint
	SavedAt     time.Time
	// Batch and Item say where it came from.
	Batch uuid.UUID
	Item  int
}

// A ClaimState says what is known of a request with an Idempotency-Key.
type ClaimState uint8

// What is known of it.
const (
	ClaimFresh     ClaimState = iota + 1 // nothing: it is the first
	ClaimTakenOver                       // the first one has died without an answer
	ClaimRunning                         // the first one is still running
	ClaimOtherBody                       // the first one had another body
	ClaimAnswered                        // the first one was answered
)

// A Claimant is a request that has claimed an Idempotency-Key. Another one takes
// over when it seems to have died.
type Claimant struct {
	Key      string
	BodyHash [32]byte  // SHA-256 of the body after decompression
	Owner    uuid.UUID // names the request
}

// ErrTakenOver is the answer to a claimant whose claim another one has by now.
var ErrTakenOver = errors.New("a repeat of the request has taken over")

// ErrUnsavable is wrapped by the error of a data store that answers, and yet can't save
// what it was given. The error of one that is away doesn't wrap it.
var ErrUnsavable = errors.New("the data store cannot save this")

// An UnknownPartnerError is the error of a data store that is to save a chunk of a
// partner that it doesn't know. Nothing is saved then.
type UnknownPartnerError struct {
	ID   int32
	Name string
}

// Error implements error.
func (e *UnknownPartnerError) Error() string {
	return fmt.Sprintf("partner %s with the number %d is not in the data store: add it again, then run intake dead retry", e.Name, e.ID)
}

// A Claim is what one gets who claims an Idempotency-Key.
type Claim struct {
	State ClaimState
	// Batch is the id of the first request's batch.
	Batch uuid.UUID
	// Answer is what was kept of the first answer.
	Answer []byte
}

// A SavedKey tells which data a partner's key was saved with.
type SavedKey struct {
	Partner     int32
	ID          string
	Fingerprint Fingerprint
}

// Saved is what the data store has to say of chunks that it was given to save:
// it has committed.
type Saved struct {
	// Outcomes has one entry a chunk, in the order in which they were given.
	Outcomes []Outcome
	// Keys are those that the data store holds now and that the chunks asked
	// for, whoever saved them.
	Keys []SavedKey
	// Timeline names the history of the data store that this commit is part of;
	// a restore or a failover begins another.
	Timeline string
}
