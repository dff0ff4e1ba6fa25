package queue

import (
	"errors"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"

	"intake"
)

// outcomeVersion is the first byte of a message with outcomes. A front that does not know the version
// reads the outcomes from the data store.
const outcomeVersion = 1

// The fields of an outcome.
const (
	outcomeBatch    = 1
	outcomeChunk    = 2
	outcomeFirst    = 3
	outcomeLen      = 4
	outcomeNotSaved = 5
	outcomeEnd      = 6
)

// appendOutcome appends an outcome to a message for the front that queued the chunk; an empty b
// begins a message. Verdicts on the rejected items are left out: they are the front's own.
func AppendOutcome(b []byte, outcome intake.Outcome, rejected []intake.ItemVerdict) []byte {
	if len(b) == 0 {
		b = append(b, outcomeVersion)
	}
	b = appendBytes(b, outcomeBatch, outcome.Batch[:])
	b = appendNumber(b, outcomeChunk, outcome.Chunk)
	b = appendNumber(b, outcomeFirst, outcome.First)
	b = appendNumber(b, outcomeLen, outcome.Len)
	news := outcome.NotSaved
	if len(rejected) > 0 {
		known := make(map[int]bool, len(rejected))
		for i := range rejected {
			known[rejected[i].Item] = true
		}
		news = slices.DeleteFunc(slices.Clone(news), func(v intake.ItemVerdict) bool { return known[v.Item] })
	}
	b = appendBytes(b, outcomeNotSaved, appendVerdicts(nil, news))
	return appendNumber(b, outcomeEnd, 0)
}

// readOutcomes calls each with every outcome of a message.
func readOutcomes(data []byte, each func(intake.Outcome)) error {
	if len(data) == 0 || data[0] != outcomeVersion {
		return errors.New("the message with outcomes has another version")
	}
	var outcome intake.Outcome
	return eachField(data[1:], func(field protowire.Number, number int, text []byte) (err error) {
		switch field {
		case outcomeBatch:
			outcome.Batch, err = uuid.FromBytes(text)
		case outcomeChunk:
			outcome.Chunk = number
		case outcomeFirst:
			outcome.First = number
		case outcomeLen:
			outcome.Len = number
		case outcomeNotSaved:
			outcome.NotSaved, err = readVerdicts(text)
		case outcomeEnd:
			each(outcome)
			outcome = intake.Outcome{}
		}
		return err
	})
}
