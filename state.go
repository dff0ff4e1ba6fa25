package intake

import (
	"fmt"
	"strconv"
	"strings"
)

// A State is the state of an item in the contract's words.
type State string

// The states. All but Pending are final.
const (
	Pending   State = "Pending"
	Completed State = "Completed"
	Duplicate State = "Duplicate"
	Conflict  State = "Conflict"
	Failed    State = "Failed"
)

// A Code is the reason of an item's state, for programs. Its number is stored and sent
// between processes, and never changes its meaning.
type Code uint8

// The codes of the contract. The zero Code is that of an item that is not decided yet.
const (
	CodePending            Code = 0
	CodeSaved              Code = 1
	CodeDuplicateInRequest Code = 2
	CodeDuplicateOfSaved   Code = 3
	CodeConflictInRequest  Code = 4
	CodeInvalid            Code = 5
	CodeRefused            Code = 6
	// CodeWouldBeSaved is in the answer to a dry run only. It is never stored.
	CodeWouldBeSaved Code = 7
)

var codes = [...]struct {
	name  string
	state State
}{
	CodePending:            {"pending", Pending},
	CodeSaved:              {"saved", Completed},
	CodeDuplicateInRequest: {"duplicate_in_request", Duplicate},
	CodeDuplicateOfSaved:   {"duplicate_of_saved", Duplicate},
	CodeConflictInRequest:  {"conflict_in_request", Conflict},
	CodeInvalid:            {"invalid", Failed},
	CodeRefused:            {"refused", Failed},
	CodeWouldBeSaved:       {"would_be_saved", Completed},
}

// String returns the contract's spelling.
func (c Code) String() string {
	if int(c) < len(codes) {
		return codes[c].name
	}
	return "code " + strconv.Itoa(int(c))
}

// State returns the state that the code belongs to. It is [Pending] for an unknown code.
func (c Code) State() State {
	if int(c) < len(codes) {
		return codes[c].state
	}
	return Pending
}

// MarshalText returns the contract's spelling, for JSON.
func (c Code) MarshalText() ([]byte, error) {
	if int(c) >= len(codes) {
		return nil, fmt.Errorf("intake: no code has the number %d", c)
	}
	return []byte(codes[c].name), nil
}

// UnmarshalText parses the contract's spelling.
func (c *Code) UnmarshalText(text []byte) error {
	for i := range codes {
		if codes[i].name == string(text) {
			*c = Code(i)
			return nil
		}
	}
	return fmt.Errorf("intake: no code is called %q", text)
}

// A Verdict is the code of an item and the reason in words (validation_errors), which is
// empty for [Completed] and [Pending].
type Verdict struct {
	Code Code   `json:"code"`
	Text string `json:"text,omitempty"`
}

// An ItemVerdict is the verdict on the item at a position of a batch.
type ItemVerdict struct {
	Item int `json:"item"`
	Verdict
}

// DuplicateInRequest is the verdict on a perfect duplicate of the item at
// position first of the same batch.
func DuplicateInRequest(first int) Verdict {
	return Verdict{CodeDuplicateInRequest, "duplicate of item " + strconv.Itoa(first) + " in this request"}
}

// DuplicateOfSaved is the verdict on an item whose key was saved before, with
// the same data or not.
func DuplicateOfSaved(same bool) Verdict {
	if same {
		return Verdict{CodeDuplicateOfSaved, "already saved with the same data"}
	}
	return Verdict{CodeDuplicateOfSaved, "already saved with different data; the saved record was not changed"}
}

// ConflictInRequest is the verdict on each of the items, two or more, that
// share the partner_client_id id while their data differs. An id that is
// longer than the contract allows is cut, so that the text stays small.
func ConflictInRequest(items []int, id string) Verdict {
	const named = 10
	var b strings.Builder
	b.WriteString("conflict: items ")
	for i, item := range items[:min(len(items), named)] {
		switch {
		case i == 0:
		case i == len(items)-1:
			b.WriteString(" and ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(strconv.Itoa(item))
	}
	if len(items) > named {
		fmt.Fprintf(&b, " and %d more", len(items)-named)
	}
	b.WriteString(" share partner_client_id ")
	b.WriteString(Quote(id, MaxIDChars))
	b.WriteString(" but their data differs")
	return Verdict{CodeConflictInRequest, b.String()}
}

// Invalid is the verdict on an item with these validation errors.
func Invalid(errors string) Verdict { return Verdict{CodeInvalid, errors} }

// Refused is the verdict on an item that the data store refused for a reason.
func Refused(reason string) Verdict {
	return Verdict{CodeRefused, "the data store refused this item: " + reason}
}

// GivenUp is the verdict on an item that was queued, could not be saved, and was dropped
// by the operator.
func GivenUp() Verdict {
	return Verdict{CodeRefused, "given up by the operator: it could not be saved; send it again if it is still needed"}
}

// Quote returns a partner's text for use in a message: in double quotes, with control
// characters and invalid bytes escaped, and truncated to maxChars characters.
func Quote(s string, maxChars int) string {
	n := 0
	for i := range s {
		if n == maxChars {
			return strconv.Quote(s[:i]) + "…"
		}
		n++
	}
	return strconv.Quote(s)
}
