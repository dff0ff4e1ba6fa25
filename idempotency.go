package intake

import (
	"errors"

	"github.com/google/uuid"
)

// A Holder is the request that holds an Idempotency-Key. It loses the key to a repeat
// if it seems to have died.
type Holder struct {
	Key      string
	BodyHash [32]byte  // SHA-256 of the body after decompression
	Owner    uuid.UUID // identifies the request
}

// A Reservation is the result of reserving an Idempotency-Key.
type Reservation struct {
	State ReservationState
	// Batch is the id of the first request's batch.
	Batch uuid.UUID
	// Answer is what was kept of the first answer. It is set in the state
	// [ReservationAnswered] only.
	Answer []byte
}

// A ReservationState says what the data store knows of an Idempotency-Key's first
// request.
type ReservationState uint8

// The states of a reservation. Only in the first two is the key reserved.
const (
	ReservationFresh     ReservationState = iota + 1 // there was none before
	ReservationTakenOver                             // it has died without an answer
	ReservationRunning                               // it is still running
	ReservationOtherBody                             // it had another body
	ReservationAnswered                              // it was answered
)

// ErrTakenOver is returned to a [Holder] that has lost its key to a repeat.
var ErrTakenOver = errors.New("a repeat of the request has taken over")
