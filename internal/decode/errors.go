package decode

import (
	"errors"
	"fmt"
)

// ErrTooManyItems is returned by [Batch] for more than [intake.MaxBatchItems] items.
var ErrTooManyItems = errors.New("more than 10000 items")

// The codes of a SyntaxError.
const (
	NotUTF8    = "not_utf8"
	NotJSON    = "not_json"
	TooDeep    = "too_deep"
	NotAnArray = "not_an_array"
	NoItems    = "no_items"
)

// A SyntaxError is the reason why a body is not a batch.
type SyntaxError struct {
	// Code is one of the codes above, for programs.
	Code string
	// Offset is the number of bytes before the error.
	Offset int
	Reason string
}

// Error implements error.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s at byte %d", e.Reason, e.Offset)
}
