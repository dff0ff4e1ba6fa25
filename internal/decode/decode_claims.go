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
	before := d.problems.count()
	var members [claimProperties]token
	d.open()
	guess := 0
	for first := true; d.more(first, '}'); first = false {
		name := d.name()
		if d.err != nil {
			return
		}
		p := d.find(claimNames, name, guess)
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
	claim := d.checkClaim(at, &members)
	if d.problems.count() == before {
		d.keepClaim(claim)
		d.formClaim(&members)
	}
}

// keepClaim appends a claim to the slab, which holds the claims of many items, to save
// allocations. When a slab is full, only the current item's claims move to the next one.
func (d *decoder) keepClaim(claim intake.RevenueClaim) {
	if len(d.slab) == cap(d.slab) {
		const bytesPerClaim = 150 // a little less than what partners' programs send
		own := d.slab[d.first:]
		expected := max(16, min((len(d.body)-d.pos)/bytesPerClaim, 4096))
		d.slab = append(make([]intake.RevenueClaim, 0, 2*len(own)+expected), own...)
		d.first = 0
	}
	d.slab = append(d.slab, claim)
}

// formClaim appends the canonical form of a claim that is valid; see Fingerprint.
func (d *decoder) formClaim(members *[claimProperties]token) {
	form := append(d.claims, "{\"\x08currency"...)
	form = appendText(form, d.text(members[currencyCode]))
	form = append(form, "\"\x08end_date"...)
	form = appendText(form, d.text(members[endDate]))
	form = append(form, "\"\x0astart_date"...)
	form = appendText(form, d.text(members[startDate]))
	form = append(form, "\"\x0btime_period"...)
	form = appendText(form, d.text(members[timePeriod]))
	form = append(form, "\"\x0ctotal_amount"...)
	form = appendNumber(form, d.source(members[totalAmount]))
	form = append(form, "\"\x11transaction_count"...)
	form = appendNumber(form, d.source(members[transactionCount]))
	d.claims = append(form, '}')
}
