package decode

import (
	"bytes"

	"intake"
)

// In most batches, the items have claims for the same months or days, and only the two
// numbers of a claim differ from item to item. So the decoder remembers valid claims as
// patterns, finds a pattern for the next claim by its start date, and compares bytes. A claim
// that does not fit is read member by member, and replaces the pattern.

// A pattern is the text of a valid claim around its two numbers, and its values. A claim with
// the same text around two other numbers has the same values, except for the numbers.
type pattern struct {
	before, between, after []byte // the text; parts of the body
	countFirst             bool   // transaction_count comes before total_amount
	start, end             intake.Timestamp
	period                 intake.Period
	form                   []byte // see formTexts
}

// patterns are those of a batch. The zero value remembers nothing.
type patterns struct {
	slots []pattern // a power of two; by start date
	date  int       // offset of the start date in the claims of the patterns
	left  int       // how many may still be remembered
	forms []byte    // of the patterns
}

// Bounds of patterns.
const (
	// minRepeats is how many items a batch must have for patterns to be worth their memory.
	minRepeats = 4
	maxSlots   = 2048
	// maxPatterns bounds the patterns of a batch, with those that were replaced: in a batch
	// without repeats, remembering claims only costs time.
	maxPatterns = 2 * maxSlots
	// maxPatternForm is the most bytes of a pattern's form. Timestamps can have any length.
	maxPatternForm = 256
)

// expect makes room for the patterns of a batch of about this many items, each with about
// this many claims.
func (p *patterns) expect(items, claims int) {
	if items < minRepeats {
		return
	}
	size := 64
	for size < 2*claims && size < maxSlots {
		size *= 2
	}
	p.slots = make([]pattern, size)
	p.left = maxPatterns
}

// at returns the slot for a claim whose text begins with b, or nil if there is none.
// Consecutive days have different slots, and so have consecutive months.
func (p *patterns) at(b []byte) *pattern {
	if len(p.slots) == 0 || len(b) < p.date+len("25-01-31") {
		return nil
	}
	b = b[p.date:]
	digits := func(i int) int { return int(b[i]&15)*10 + int(b[i+1]&15) }
	date := (digits(0)*12+digits(3))*31 + digits(6)
	return &p.slots[date&(len(p.slots)-1)]
}

// learn remembers the valid claim between begin and the scanner's position, except if a
// number comes before its start date: the date has no fixed offset then.
func (d *decoder) learn(begin int, members *[claimProperties]token, claim *intake.RevenueClaim, form []byte) {
	p := &d.patterns
	first, second := members[totalAmount], members[transactionCount]
	countFirst := second.start < first.start
	if countFirst {
		first, second = second, first
	}
	date := members[startDate].start + len(`"20`) // the rest of 2025-01-31 has 8 bytes
	if p.left == 0 || first.start < date || len(form) > maxPatternForm {
		return
	}
	p.left--
	p.date = date - begin
	p.forms = append(p.forms, form...)
	*p.at(d.body[begin:]) = pattern{
		before: d.body[begin:first.start], between: d.body[first.end:second.start], after: d.body[second.end:d.pos],
		countFirst: countFirst,
		start:      claim.Start, end: claim.End, period: claim.Period,
		form: p.forms[len(p.forms)-len(form):],
	}
}

// repeatedClaim reads the next claim if it fits a pattern and is valid, and reports whether
// it did. It changes nothing otherwise.
func (d *decoder) repeatedClaim() bool {
	text := d.body[d.pos:]
	p := d.patterns.at(text)
	if p == nil {
		return false
	}
	rest, fits := bytes.CutPrefix(text, p.before)
	if !fits {
		return false
	}
	amount, length := plainDecimal(rest)
	if length == 0 { // as in an empty slot: the claim begins with a brace
		return false
	}
	if rest, fits = bytes.CutPrefix(rest[length:], p.between); !fits {
		return false
	}
	count, length := plainDecimal(rest)
	if length == 0 {
		return false
	}
	if rest, fits = bytes.CutPrefix(rest[length:], p.after); !fits {
		return false
	}
	if p.countFirst {
		amount, count = count, amount
	}
	claim := intake.RevenueClaim{Start: p.start, End: p.end, Period: p.period}
	var isAmount, isCount bool
	claim.TotalAmount, isAmount = amount.amount()
	claim.TransactionCount, isCount = count.count()
	if !isAmount || !isCount || !count.whole() || !haveSameSign(&claim) {
		return false
	}
	d.pos = len(d.body) - len(rest)
	d.claims = append(d.claims, p.form...)
	d.keepClaim(claim, amounts{amount, count})
	return true
}
