package decode

import "intake"

// The properties of a revenue claim, in the order of the contract's table.
const (
	startDate = iota
	endDate
	timePeriod
	currencyCode
	totalAmount
	transactionCount
	claimProperties
)

var claimNames = []string{"start_date", "end_date", "time_period", "currency", "total_amount", "transaction_count"}

const maxClaims = 1000

// revenueClaims reads the array revenue_claims. Of elements beyond its limit, it checks the
// grammar only.
func (d *decoder) revenueClaims() token {
	t := token{kind: array, start: d.pos}
	d.open()
	n := 0
	for ; d.more(n == 0, ']'); n++ {
		if n < maxClaims {
			d.claim(pathOf(revenueClaims).element(n))
		} else {
			d.value()
		}
	}
	if n > maxClaims {
		d.problems.add(pathOf(revenueClaims), "must have at most 1000 elements")
	}
	t.end = d.pos
	return t
}

// claim reads an element of revenue_claims, and keeps it if it is valid.
func (d *decoder) claim(at path) {
	if d.peek() != '{' {
		d.is(object, at, d.value())
		return
	}
	if d.repeatedClaim() {
		return
	}
	before, begin := d.problems.count(), d.pos
	var members [claimProperties]token
	d.open()
	guess := 0
	for first := true; d.more(first, '}'); first = false {
		p, name := d.member(claimNames, guess)
		if d.err != nil {
			return
		}
		if p < 0 {
			d.unknown(at.member(claimProperties), name)
			continue
		}
		guess = p + 1
		t := d.value()
		if members[p].kind != absent {
			t.marks |= repeated
		}
		members[p] = t
	}
	if d.err != nil {
		return
	}
	claim, amounts := d.checkClaim(at, &members)
	if d.problems.count() == before {
		form := d.formTexts(&members)
		d.learn(begin, &members, &claim, form)
		d.keepClaim(claim, amounts)
	}
}

// keepClaim appends a valid claim to the slab, which holds the claims of many items, to save
// allocations. When a slab is full, only the current item's claims move to the next one. It
// also appends the rest of the claim's canonical form to what formTexts has appended.
func (d *decoder) keepClaim(claim intake.RevenueClaim, of amounts) {
	if len(d.slab) == cap(d.slab) {
		const bytesPerClaim = 150 // a little less than what partners' programs send
		own := d.slab[d.first:]
		expected := max(16, min((len(d.body)-d.pos)/bytesPerClaim, 4096))
		d.slab = append(make([]intake.RevenueClaim, 0, 2*len(own)+expected), own...)
		d.first = 0
	}
	d.slab = append(d.slab, claim)
	form := appendDecimal(d.claims, of.amount)
	form = append(form, "\"\x11transaction_count"...)
	form = appendDecimal(form, of.count)
	d.claims = append(form, '}')
}

// formTexts appends the canonical form of a valid claim, up to its amount; see Fingerprint.
// It returns what it has appended.
func (d *decoder) formTexts(members *[claimProperties]token) []byte {
	begin := len(d.claims)
	form := append(d.claims, "{\"\x08currency"...)
	form = appendText(form, d.text(members[currencyCode]))
	form = append(form, "\"\x08end_date"...)
	form = appendText(form, d.text(members[endDate]))
	form = append(form, "\"\x0astart_date"...)
	form = appendText(form, d.text(members[startDate]))
	form = append(form, "\"\x0btime_period"...)
	form = appendText(form, d.text(members[timePeriod]))
	d.claims = append(form, "\"\x0ctotal_amount"...)
	return d.claims[begin:]
}
