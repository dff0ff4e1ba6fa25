// Package intake holds the words of the contract with the partners: a batch, its
// items, the partner client and the revenue claims in each, and the state that each
// item gets. It knows no server and imports no other package of this module.
//
// An item passes through the packages in this order:
//
//	internal/decode  decodes the body in one pass: is it JSON, where does each item
//	                 begin and end, what does it say, is it valid
//	dedupe           InBatch finds duplicates and conflicts within the batch, and
//	                 SeenSet asks Redis which items were saved before
//	worker/queue     cuts the rest into chunks, queues them in NATS, and waits for
//	                 their outcomes
//	worker           takes chunks from the queue, and acknowledges them once saved
//	sink             saves chunks in Postgres, exactly once
//
// What a request says is in intake.go, what becomes of it in batch.go and state.go,
// and what makes a repeat of it harmless in idempotency.go.
package intake

import (
	"time"

	"github.com/google/uuid"
)

// A Partner sends batches. Everything it sends is kept under its ID, apart from all
// other partners' data.
type Partner struct {
	// ID is the partner's number in the data store. It is positive and never reused.
	ID int32
	// Name is the partner's OAuth2 client id. It is unique; see [ValidPartnerName].
	Name string
	// Currency is the ISO 4217 code agreed at onboarding, such as "GBP".
	Currency string
	// EntityTypes lists the entity types that the partner may send. If it is empty,
	// the partner may send any that is well formed.
	EntityTypes []string
	// Disabled partners get no tokens, and the tokens they hold are refused.
	Disabled bool
	Limits   Limits
}

// Limits bound what a partner may send to all fronts together. Zero means no limit.
type Limits struct {
	// ItemsPerSecond is the sustained rate. Burst is the number of items that may
	// come together after a pause; it is at least the size of the largest batch.
	ItemsPerSecond, Burst int
	// Requests is the number of requests in flight, and Bytes the memory they hold.
	Requests int
	Bytes    int64
}

// A PartnerClient is a merchant as one valid item describes it, in the form in which
// it is queued and saved. Its strings may share memory with the body of the request
// that it was decoded from.
type PartnerClient struct {
	// Item is the position in the batch, from 0.
	Item int
	// ID is the partner_client_id: 1 to 128 characters.
	ID string
	// StartDate is the client_start_date, or [NoTimestamp].
	StartDate Timestamp
	// EntityType is 1 to 64 ASCII letters and digits.
	EntityType string
	// OtherIdentifiers is the property's JSON text as sent. It is nil if the property
	// was left out or null.
	OtherIdentifiers []byte
	// Claims are in the order of the item, at most 1,000.
	Claims []RevenueClaim
	// Fingerprint is that of the whole item.
	Fingerprint Fingerprint
}

// A RevenueClaim is a merchant's turnover in one month or day, in the partner's
// currency.
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

// String returns the contract's spelling.
func (p Period) String() string {
	switch p {
	case Monthly:
		return "Monthly"
	case Daily:
		return "Daily"
	}
	return "unknown"
}

// A Record describes a partner client that is saved.
type Record struct {
	ID          string // the partner_client_id
	Fingerprint Fingerprint
	SavedAt     time.Time
	// Batch and Item say which item it was saved from.
	Batch uuid.UUID
	Item  int
}
