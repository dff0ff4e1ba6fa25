package worker

import (
	"errors"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"

	"intake"
)

// outcomeVersion is the first byte of the message that tells a front of
// outcomes. A front that doesn't know it reads the outcomes from the data store.
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

// appendOutcome appends what a front doesn't know yet: it has rejected some
// items itself.
func appendOutcome(b []byte, outcome intake.Outcome, rejected []intake.ItemVerdict) []byte {
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

func readOutcomes(data []byte, each func(intake.Outcome)) error {
	if len(data) == 0 || data[0] != outcomeVersion {
		return errors.New("outcomes of another version")
	}
	var outcome intake.Outcome
	for rest := data[1:]; len(rest) > 0; {
		field, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return protowire.ParseError(n)
		}
		rest = rest[n:]
		size := protowire.ConsumeFieldValue(field, kind, rest)
		if size < 0 {
			return protowire.ParseError(size)
		}
		if err := readOutcomeField(&outcome, field, kind, rest); err != nil {
			return err
		}
		if field == outcomeEnd {
			each(outcome)
			outcome = intake.Outcome{}
		}
		rest = rest[size:]
	}
	return nil
}

func readOutcomeField(outcome *intake.Outcome, field protowire.Number, kind protowire.Type, value []byte) (err error) {
	switch kind {
	case protowire.VarintType:
		number, _ := protowire.ConsumeVarint(value)
		if number > intake.MaxBatchItems {
			return errCutShort
		}
		switch field {
		case outcomeChunk:
			outcome.Chunk = int(number)
		case outcomeFirst:
			outcome.First = int(number)
		case outcomeLen:
			outcome.Len = int(number)
		}
	case protowire.BytesType:
		text, _ := protowire.ConsumeBytes(value)
		switch field {
		case outcomeBatch:
			outcome.Batch, err = uuid.FromBytes(text)
		case outcomeNotSaved:
			outcome.NotSaved, err = readVerdicts(text)
		}
	}
	return err
}
