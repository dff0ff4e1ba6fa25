package decode

import (
	"slices"
	"strconv"
	"strings"

	"intake"
)

// checkItem validates the properties of an item, and sets their values.
func (d *decoder) checkItem(client *intake.PartnerClient, properties *[itemProperties]token) {
	d.checkID(properties[partnerClientID])
	client.StartDate = d.checkStartDate(properties[clientStartDate])
	client.EntityType = d.checkEntityType(properties[entityType])
	for p := otherIdentifiers; p <= revenueClaims; p++ {
		at := pathOf(p)
		if properties[p].repeated() {
			d.problems.forget(at)
		}
		d.optional(array, at, properties[p])
	}
	if t := properties[otherIdentifiers]; t.kind == array {
		client.OtherIdentifiers = d.body[t.start:t.end:t.end]
	}
}

func (d *decoder) checkID(t token) {
	at := pathOf(partnerClientID)
	if !d.required(text, at, t) {
		return
	}
	id := d.text(t)
	d.checkLength(at, id, intake.MaxIDChars)
	if holdsControl(id) {
		d.problems.add(at, "must not hold control characters")
	}
}

func (d *decoder) checkStartDate(t token) intake.Timestamp {
	at := pathOf(clientStartDate)
	if !d.optional(text, at, t) {
		return intake.NoTimestamp
	}
	moment, ok := d.checkTimestamp(at, t)
	if ok && moment > d.latest {
		d.problems.add(at, "must not be later than a day from now")
	}
	return moment
}

func (d *decoder) checkEntityType(t token) string {
	at := pathOf(entityType)
	if !d.required(text, at, t) {
		return ""
	}
	name := d.text(t)
	switch types := d.partner.EntityTypes; {
	case len(types) > 0 && !slices.Contains(types, name):
		d.problems.add(at, "must be one of "+listed(types))
	case !intake.ValidEntityType(name):
		d.problems.add(at, "must be 1 to 64 ASCII letters and digits, starting with a letter")
	}
	return name
}

// listed lists the first few of some words.
func listed(words []string) string {
	const named = 20
	if len(words) <= named {
		return strings.Join(words, ", ")
	}
	return strings.Join(words[:named], ", ") + " and " + strconv.Itoa(len(words)-named) + " more"
}

func (d *decoder) checkIdentifier(at path, members *[identifierProperties]token) {
	if key := at.member(identifierKey); d.required(text, key, members[identifierKey]) {
		d.checkLength(key, d.text(members[identifierKey]), maxIdentifierKeyChars)
	}
	values := at.member(identifierValues)
	if members[identifierValues].repeated() {
		d.problems.forget(values)
	}
	d.required(array, values, members[identifierValues])
}

// checkClaim validates a claim. The result is defined only if it adds no problem.
func (d *decoder) checkClaim(at path, members *[claimProperties]token) (claim intake.RevenueClaim, of amounts) {
	startGiven, endGiven := false, false
	if t := members[startDate]; d.required(text, at.member(startDate), t) {
		claim.Start, startGiven = d.checkTimestamp(at.member(startDate), t)
	}
	if t := members[endDate]; d.required(text, at.member(endDate), t) {
		claim.End, endGiven = d.checkTimestamp(at.member(endDate), t)
	}
	if t := members[timePeriod]; d.required(text, at.member(timePeriod), t) {
		claim.Period = d.checkTimePeriod(at.member(timePeriod), d.text(t))
	}
	if startGiven && endGiven && claim.Period != 0 {
		d.checkSpan(at, &claim)
	}
	if t := members[currencyCode]; d.required(text, at.member(currencyCode), t) && d.text(t) != d.partner.Currency {
		d.problems.add(at.member(currencyCode), "must be "+d.partner.Currency+", the currency agreed with this partner")
	}
	of = d.checkMoney(at, members, &claim)
	return claim, of
}

func (d *decoder) checkTimePeriod(at path, name string) intake.Period {
	switch name {
	case "Monthly":
		return intake.Monthly
	case "Daily":
		return intake.Daily
	}
	d.problems.add(at, "must be Monthly or Daily, not "+intake.Quote(name, maxEchoChars))
	return 0
}

// checkSpan checks that a claim's dates span one whole period, the one that the claim
// names, to the millisecond.
func (d *decoder) checkSpan(at path, claim *intake.RevenueClaim) {
	start, end, period := inMilliseconds(claim.Start), inMilliseconds(claim.End), claim.Period
	if spans(period, start, end) {
		return
	}
	other := intake.Monthly + intake.Daily - period
	switch {
	case spans(other, start, end):
		d.problems.add(at.member(timePeriod), "must be "+other.String()+", the period that the dates span")
	case startOf(period, start) != start:
		d.problems.add(at.member(startDate), "must be the first moment of a "+unitOf(period)+" in UTC, such as "+
			startOf(period, start).String()+
			", for a "+period.String()+" claim")
	default:
		d.problems.add(at.member(endDate), "must be "+lastOf(period, start).String()+" for a "+period.String()+
			" claim that starts "+
			start.String()[:len("2006-01-02")])
	}
}

func unitOf(p intake.Period) string {
	if p == intake.Monthly {
		return "month"
	}
	return "day"
}

// amounts are the two numbers of a claim. Those of a valid one are not long.
type amounts struct{ amount, count decimal }

// checkMoney validates a claim's amount and count.
func (d *decoder) checkMoney(at path, members *[claimProperties]token, claim *intake.RevenueClaim) (of amounts) {
	amountGiven, countGiven := false, false
	if t := members[totalAmount]; d.required(number, at.member(totalAmount), t) {
		of.amount = parseDecimal(d.source(t))
		claim.TotalAmount, amountGiven = of.amount.amount()
		if !amountGiven {
			d.problems.add(at.member(totalAmount), "must have at most 15 digits before the point and 4 behind")
		}
	}
	if t := members[transactionCount]; d.required(number, at.member(transactionCount), t) {
		of.count = parseDecimal(d.source(t))
		claim.TransactionCount, countGiven = of.count.count()
		if !of.count.whole() {
			countGiven = false
			d.problems.add(at.member(transactionCount), "must be a whole number")
		} else if !countGiven {
			d.problems.add(at.member(transactionCount), "must be within ±1,000,000,000,000")
		}
	}
	if amountGiven && countGiven && !haveSameSign(claim) {
		d.problems.add(at.member(transactionCount), "must have the same sign as total_amount")
	}
	return of
}

// haveSameSign reports whether the amount and the count of a claim have the same sign, or
// one is zero.
func haveSameSign(claim *intake.RevenueClaim) bool {
	amount, count := claim.TotalAmount, claim.TransactionCount
	return amount.Abs == 0 || count == 0 || amount.Neg == (count < 0)
}

func (d *decoder) checkTimestamp(at path, t token) (intake.Timestamp, bool) {
	s := d.text(t)
	moment, ok := ParseTimestamp(s)
	if !ok {
		d.problems.add(at, "must be a timestamp such as 2025-01-31T23:59:59.999Z, not "+intake.Quote(s, maxEchoChars))
	}
	return moment, ok
}

// checkLength checks the length of a string, which must not be empty.
func (d *decoder) checkLength(at path, s string, maxChars int) {
	switch {
	case s == "":
		d.problems.add(at, "must not be empty")
	case longerThan(s, maxChars):
		d.problems.add(at, "must have at most "+strconv.Itoa(maxChars)+" characters")
	}
}

// required reports whether a required property is there and usable.
func (d *decoder) required(want kind, at path, t token) bool {
	switch {
	case t.repeated():
		d.problems.add(at, "given more than once")
		return false
	case t.kind == absent || t.kind == null:
		d.problems.add(at, "required")
		return false
	}
	return d.is(want, at, t)
}

// optional reports whether an optional property is there and usable.
func (d *decoder) optional(want kind, at path, t token) bool {
	if !t.repeated() && (t.kind == absent || t.kind == null) {
		return false
	}
	return d.required(want, at, t)
}

// is reports whether a value has the kind wanted, and only strings that can be saved.
func (d *decoder) is(want kind, at path, t token) bool {
	if t.kind != want {
		wanted := want.String()
		if want == number { // a partner that sends "12.5" may take it for a number
			wanted = "a JSON number"
		}
		d.problems.add(at, "must be "+wanted+", not "+t.kind.String())
	}
	if t.flaws() != 0 {
		d.problems.add(at, flawText(t.flaws()))
	}
	return t.kind == want && t.flaws() == 0
}
