package decode

import (
	"bytes"
	"intake"
	"time"
	"unicode/utf8"
)

// Batch decodes and validates the body of a request of partner p, in one
// pass. What the items hold shares memory with body, which must not change any
// more. A timestamp is checked against now, where it may not be far ahead.
//
// The error is a *SyntaxError where the contract refuses the body as a whole
// (400), or ErrTooManyItems (413); then what comes after the last item allowed
// was not looked at. Time and memory are linear in the body's length whatever
// it holds. So that texts of errors are in proportion too, those beyond 32 MiB
// of a batch name the first 10 errors of an item and how many more there are.
func Batch(body []byte, p *intake.Partner, now time.Time) ([]intake.Item, error) {
	if err := checkEncoding(body); err != nil {
		return nil, err
	}
	d := decoder{
		scanner: scanner{body: body},
		partner: p,
		latest:  intake.Timestamp(now.Add(24 * time.Hour).UnixMicro()),
	}
	return d.batch()
}

// checkEncoding checks what JSON over the net must be (RFC 8259 §8.1).
func checkEncoding(body []byte) error {
	if bytes.HasPrefix(body, []byte("\uFEFF")) {
		return &SyntaxError{Code: NotJSON, Offset: 0, Reason: "not JSON: a byte order mark"}
	}
	if utf8.Valid(body) {
		return nil
	}
	for i := 0; ; {
		r, size := utf8.DecodeRune(body[i:])
		if r == utf8.RuneError && size == 1 {
			return &SyntaxError{Code: NotUTF8, Offset: i, Reason: "not UTF-8"}
		}
		i += size
	}
}

// A decoder decodes one batch, an item at a time. What it keeps of an item is
// used again for the next one.
type decoder struct {
	scanner
	partner  *intake.Partner
	latest   intake.Timestamp // that a client_start_date may be
	problems problems
	slab     []intake.RevenueClaim // of the items so far; see keepClaim
	first    int                   // in slab, of the item at hand
	former   former                // of the item's canonical form
	claims   []byte                // the canonical forms of its claims, as far as they are valid
}

func (d *decoder) batch() ([]intake.Item, error) {
	d.space()
	if start := d.pos; d.peek() != '[' {
		if start == len(d.body) {
			return nil, &SyntaxError{Code: NotJSON, Offset: start, Reason: "the body is empty"}
		}
		if t := d.value(); d.err == nil {
			return nil, &SyntaxError{Code: NotAnArray, Offset: start, Reason: "must be a JSON array of items, not " + t.kind.String()}
		}
		return nil, d.err
	}
	start := d.pos
	var items []intake.Item
	d.open()
	for d.more(len(items) == 0, ']') {
		if len(items) == intake.MaxBatchItems {
			return nil, ErrTooManyItems
		}
		items = append(items, intake.Item{})
		d.item(len(items)-1, &items[len(items)-1])
		if len(items) == 1 { // the others will be of about its size
			expected := min(intake.MaxBatchItems, len(d.body)/(len(items[0].Raw)+1)+1)
			items = append(make([]intake.Item, 0, expected), items[0])
		}
	}
	if d.space(); d.pos < len(d.body) {
		d.notJSON("trailing bytes after the array")
	}
	if d.err == nil && len(items) == 0 {
		d.fail(NoItems, start, "the array holds no items")
	}
	if d.err != nil {
		return nil, d.err
	}
	return items, nil
}

// The properties of an item, in the order of the contract's table, in which
// errors are named.
const (
	partnerClientID = iota
	clientStartDate
	entityType
	otherIdentifiers
	revenueClaims
	itemProperties
)

var itemNames = []string{"partner_client_id", "client_start_date", "entity_type", "other_identifiers", "revenue_claims"}

// item decodes the next item of the batch, its n-th.
func (d *decoder) item(n int, item *intake.Item) {
	start := d.pos
	d.problems.reset()
	d.claims = d.claims[:0]
	d.first = len(d.slab)
	if d.peek() != '{' {
		t := d.value()
		item.Raw = d.body[start:d.pos:d.pos]
		item.Errors = "item: must be a JSON object, not " + t.kind.String()
		return
	}
	properties := d.properties()
	if d.err != nil {
		return
	}
	item.Raw = d.body[start:d.pos:d.pos]
	item.Key = d.key(properties[partnerClientID])
	client := intake.PartnerClient{Item: n, ID: item.Key}
	d.checkItem(&client, &properties)
	if d.problems.any() {
		d.slab = d.slab[:d.first]
		item.Errors = d.problems.String()
		return
	}
	client.Claims = d.slab[d.first:len(d.slab):len(d.slab)]
	client.Fingerprint = d.fingerprint(&client, &properties)
	item.Client = client
}

// properties reads an item. Its arrays are judged on the way, for they are too
// long to be looked at twice, the rest by checkItem.
func (d *decoder) properties() (properties [itemProperties]token) {
	d.open()
	guess := 0
	for first := true; d.more(first, '}'); first = false {
		name := d.name()
		if d.err != nil {
			return properties
		}
		p := d.find(itemNames, name, guess)
		if p < 0 {
			d.unknown(placeOf(itemProperties), name)
			continue
		}
		guess = p + 1
		switch t := &properties[p]; {
		case t.kind != absent:
			d.value()
			t.marks |= repeated
		case p == otherIdentifiers && d.peek() == '[':
			*t = d.identifiers()
		case p == revenueClaims && d.peek() == '[':
			*t = d.revenueClaims()
		default:
			*t = d.value()
		}
	}
	return properties
}

// find gives the position of a member's name among the names of an object, or
// -1. Most partners send members in the same order, hence the guess.
func (d *decoder) find(names []string, name token, guess int) int {
	s := d.text(name)
	if guess < len(names) && names[guess] == s {
		return guess
	}
	for i := range names {
		if names[i] == s {
			return i
		}
	}
	return -1
}

// unknown reads the value of a member that the object should not have.
func (d *decoder) unknown(at place, name token) {
	d.problems.addUnknown(at, d.text(name), "unknown property")
	if flaws := name.flaws() | d.value().flaws(); flaws != 0 {
		d.problems.addUnknown(at, d.text(name), flawText(flaws))
	}
}

// key gives the partner_client_id if it is usable, however invalid.
func (d *decoder) key(id token) string {
	if id.kind != text || id.repeated() {
		return ""
	}
	return d.text(id)
}

// fingerprint gives what Fingerprint would give for the item, which is valid,
// without reading it once more.
func (d *decoder) fingerprint(client *intake.PartnerClient, properties *[itemProperties]token) intake.Fingerprint {
	f := &d.former
	f.form = append(f.form[:0], formVersion+"{"...)
	if t := properties[clientStartDate]; t.kind != absent {
		f.form = append(f.form, "\"\x11client_start_date"...)
		f.form = d.appendScalar(f.form, t)
	}
	f.form = append(f.form, "\"\x0bentity_type"...)
	f.form = appendText(f.form, client.EntityType)
	if t := properties[otherIdentifiers]; t.kind != absent {
		f.form = append(f.form, "\"\x11other_identifiers"...)
		f.scanner = scanner{body: d.source(t)}
		f.value()
	}
	f.form = append(f.form, "\"\x11partner_client_id"...)
	f.form = appendText(f.form, client.ID)
	switch properties[revenueClaims].kind {
	case null:
		f.form = append(f.form, "\"\x0erevenue_claimsn"...)
	case array:
		f.form = append(f.form, "\"\x0erevenue_claims["...)
		f.form = append(append(f.form, d.claims...), ']')
	}
	f.form = append(f.form, '}')
	return hashForm(f.form)
}
