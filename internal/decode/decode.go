// Package decode decodes the body of a request into items, with every rule of the
// contract and the text of every error.
//
// [Batch] reads the body in one pass. The scanner (scan.go, scan_string.go) steps through
// the JSON and checks its grammar; the decoder (decode.go, decode_claims.go,
// decode_identifiers.go) finds the properties of each item; validate.go, timestamp.go and
// decimal.go judge them, and problems.go collects the errors with their paths. A claim with
// the text of an earlier one, except for its numbers, takes a shortcut (repeat.go, plain.go).
// [Fingerprint] hashes an item's canonical form (fingerprint.go).
//
// # Why a decoder of its own
//
// A library that decodes into structs would need a second pass for nearly everything that
// the contract asks for: each item byte for byte as it was sent; all errors of an item with
// their paths, rather than the first; unknown and repeated properties that fail one item
// and no other; numbers that are exact and never pass through a float; a fingerprint that
// does not depend on white space or the order of members; and time and memory that are
// linear in the body whatever it holds. It would not be faster either. On a batch of 1,000
// items with 12 claims each, Batch does all of this in a fifth of the time in which
// github.com/go-json-experiment/json decodes the body into structs and nothing else, and in
// a ninth of that of encoding/json, with 29 allocations rather than 22,000 and 48,000
// (BenchmarkBatch, BenchmarkLibraries). The grammar is held by the cases of rfc8259_test.go
// and by fuzzing against encoding/json.
package decode

import (
	"bytes"
	"slices"
	"time"
	"unicode/utf8"

	"intake"
)

// Batch decodes and validates the body of a request of partner p. The items share memory
// with body, which must not be changed afterwards. A client_start_date may be at most one
// day after now.
//
// The error is a [*SyntaxError] if the contract refuses the body as a whole (400), or
// [ErrTooManyItems] (413), in which case the rest of the body is not read. Time and memory
// are linear in the length of the body. To bound the texts of errors as well, those beyond
// 32 MiB of a batch name the first 10 errors of an item and the number of the others.
func Batch(body []byte, p *intake.Partner, now time.Time) ([]intake.Item, error) {
	if err := checkEncoding(body); err != nil {
		return nil, err
	}
	d := decoder{
		scanner: scanner{body: body},
		partner: p,
		latest:  intake.Timestamp(now.Add(24 * time.Hour).UnixMicro()),
		claims:  make([]byte, 0, min(len(body), usualForm)),
	}
	d.former.form = make([]byte, 0, min(len(body), usualForm))
	return d.batch()
}

// usualForm is how long the canonical form of an item usually is at most, in bytes.
const usualForm = 4 << 10

// checkEncoding checks that body is UTF-8 without a byte order mark (RFC 8259 §8.1).
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

// A decoder decodes one batch, an item at a time. It reuses its memory for the next item.
type decoder struct {
	scanner
	partner  *intake.Partner
	latest   intake.Timestamp // latest client_start_date allowed
	problems problems
	slab     []intake.RevenueClaim // claims of the items so far; see keepClaim
	first    int                   // index in slab of the current item's first claim
	patterns patterns              // of the claims so far
	former   former                // forms the item's canonical form
	claims   []byte                // the canonical forms of its valid claims
}

func (d *decoder) batch() ([]intake.Item, error) {
	d.space()
	if start := d.pos; d.peek() != '[' {
		if start == len(d.body) {
			return nil, &SyntaxError{Code: NotJSON, Offset: start, Reason: "the body is empty"}
		}
		if t := d.value(); d.err == nil {
			return nil, &SyntaxError{Code: NotAnArray, Offset: start, Reason: "must be a JSON array of items, not " +
				t.kind.String()}
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
		if len(items) == 1 { // the others are likely to have a similar size
			expected := min(intake.MaxBatchItems, len(d.body)/(len(items[0].Raw)+1)+1)
			items = append(make([]intake.Item, 0, expected), items[0])
			d.patterns.expect(expected, len(d.slab))
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

// properties reads the members of an item. It validates the arrays as it reads them,
// since they are too long to be read twice; checkItem validates the rest.
func (d *decoder) properties() (properties [itemProperties]token) {
	d.open()
	guess := 0
	for first := true; d.more(first, '}'); first = false {
		p, name := d.member(itemNames, guess)
		if d.err != nil {
			return properties
		}
		if p < 0 {
			d.unknown(pathOf(itemProperties), name)
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

// member reads the name of a member and the colon behind it. It returns the position of the
// name among the names of an object, or -1 and the name. It tries the guess first, as most
// partners send members in the same order.
func (d *decoder) member(names []string, guess int) (p int, name token) {
	if guess < len(names) && d.skipName(names[guess]) {
		return guess, token{}
	}
	name = d.name()
	if d.err != nil {
		return -1, token{}
	}
	return slices.Index(names, d.text(name)), name
}

// unknown skips the value of a member that the object must not have.
func (d *decoder) unknown(at path, name token) {
	d.problems.addUnknown(at, d.text(name), "unknown property")
	if flaws := name.flaws() | d.value().flaws(); flaws != 0 {
		d.problems.addUnknown(at, d.text(name), flawText(flaws))
	}
}

// key returns the partner_client_id if it is usable, even if it is invalid.
func (d *decoder) key(id token) string {
	if id.kind != text || id.repeated() {
		return ""
	}
	return d.text(id)
}

// fingerprint returns the [Fingerprint] of the current item, which must be valid, without
// reading it again.
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
