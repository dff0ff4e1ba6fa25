package decode

// The properties of an element of other_identifiers.
const (
	identifierKey = iota
	identifierValues
	identifierProperties
)

var identifierNames = []string{"key", "values"}

const (
	maxIdentifiers          = 50
	maxIdentifierKeyChars   = 64
	maxIdentifierValues     = 50
	maxIdentifierValueChars = 256
)

// identifiers reads the array other_identifiers. Of elements beyond its limit, it checks
// the grammar only.
func (d *decoder) identifiers() token {
	t := token{kind: array, start: d.pos}
	d.open()
	n := 0
	for ; d.more(n == 0, ']'); n++ {
		if n < maxIdentifiers {
			d.identifier(pathOf(otherIdentifiers).element(n))
		} else {
			d.value()
		}
	}
	if n > maxIdentifiers {
		d.problems.add(pathOf(otherIdentifiers), "must have at most 50 elements")
	}
	t.end = d.pos
	return t
}

func (d *decoder) identifier(at path) {
	if d.peek() != '{' {
		d.is(object, at, d.value())
		return
	}
	var members [identifierProperties]token
	d.open()
	guess := 0
	for first := true; d.more(first, '}'); first = false {
		p, name := d.member(identifierNames, guess)
		if d.err != nil {
			return
		}
		if p < 0 {
			d.unknown(at.member(identifierProperties), name)
			continue
		}
		guess = p + 1
		switch t := &members[p]; {
		case t.kind != absent:
			d.value()
			t.marks |= repeated
		case p == identifierValues && d.peek() == '[':
			*t = d.values(at.member(identifierValues))
		default:
			*t = d.value()
		}
	}
	if d.err != nil {
		return
	}
	d.checkIdentifier(at, &members)
}

// values reads the array values.
func (d *decoder) values(at path) token {
	t := token{kind: array, start: d.pos}
	d.open()
	n := 0
	for ; d.more(n == 0, ']'); n++ {
		value := d.value()
		if n < maxIdentifierValues && d.err == nil {
			if d.is(text, at.value(n), value) {
				d.checkLength(at.value(n), d.text(value), maxIdentifierValueChars)
			}
		}
	}
	if n == 0 || n > maxIdentifierValues {
		d.problems.add(at, "must have 1 to 50 elements")
	}
	t.end = d.pos
	return t
}
