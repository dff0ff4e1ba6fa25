package decode

import (
	"cmp"
	"intake"
	"slices"
	"strconv"
)

const (
	// maxEchoChars is the most that an error repeats of a partner's text.
	maxEchoChars = 64
	// maxProblemBytes bounds the texts of a batch's errors. A small item can
	// have many errors, so that without it a body could cost a hundred times its
	// size. Beyond it each item names no more than leastProblems, and says how
	// many there are more.
	maxProblemBytes = 32 << 20
	leastProblems   = 10
)

// A place is where something stands in an item: four numbers of 16 bits, so that
// it costs nothing to say where one is for the many claims that have no error.
// The first is the property of the item. The second counts from 1 in that
// property's array, the third from 1 through the members of that element, the
// last from 1 in that member's array; 0 is the whole of what comes before it.
// Places are ordered as the contract's tables are.
type place uint64

func placeOf(property int) place        { return place(property) << 48 }
func (at place) element(i int) place    { return at + place(i+1)<<32 }
func (at place) member(m int) place     { return at + place(m+1)<<16 }
func (at place) value(i int) place      { return at + place(i+1) }
func (at place) part(shift uint) int    { return int(at >> shift & 0xFFFF) }
func (at place) holds(other place) bool { return other&^at.inner() == at }

// inner gives the bits that are not needed to name this place.
func (at place) inner() place {
	switch {
	case at.part(32) == 0:
		return 1<<48 - 1
	case at.part(16) == 0:
		return 1<<32 - 1
	}
	return 1<<16 - 1
}

// appendPath appends the path of a place; unknown is the last name in it if it
// is none of the contract's.
func appendPath(b []byte, at place, unknown string) []byte {
	property := at.part(48)
	if property == itemProperties {
		return appendUnknown(b, unknown)
	}
	b = append(b, itemNames[property]...)
	b = appendIndex(b, at.part(32))
	if member := at.part(16); member > 0 {
		names := claimNames
		if property == otherIdentifiers {
			names = identifierNames
		}
		b = append(b, '.')
		if member > len(names) {
			return appendUnknown(b, unknown)
		}
		b = append(b, names[member-1]...)
	}
	return appendIndex(b, at.part(0))
}

func appendIndex(b []byte, fromOne int) []byte {
	if fromOne == 0 {
		return b
	}
	return append(strconv.AppendInt(append(b, '['), int64(fromOne-1), 10), ']')
}

// appendUnknown appends a name that a partner made up: quoted, unless it looks
// like a name.
func appendUnknown(b []byte, name string) []byte {
	plain := name != "" && len(name) <= maxEchoChars
	for i := 0; plain && i < len(name); i++ {
		c := name[i]
		plain = isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'z' || c == '_' || c == '-'
	}
	if plain {
		return append(b, name...)
	}
	return append(b, intake.Quote(name, maxEchoChars)...)
}

// problems gathers the errors of one item after the other.
type problems struct {
	list  []problem
	text  []byte // of the list's problems
	more  int    // that are not in the list
	spent int    // bytes of the texts of earlier items
}

// A problem is one error; its text is a part of problems.text.
type problem struct {
	at         place
	start, end int
}

func (p *problems) reset() {
	p.spent += len(p.text)
	p.list, p.text, p.more = p.list[:0], p.text[:0], 0
}

func (p *problems) add(at place, what string) { p.addUnknown(at, "", what) }

// addUnknown adds a problem of a property that should not be there.
func (p *problems) addUnknown(at place, name, what string) {
	if len(p.list) >= leastProblems && p.spent+len(p.text) > maxProblemBytes {
		p.more++
		return
	}
	start := len(p.text)
	p.text = append(append(appendPath(p.text, at, name), ": "...), what...)
	p.list = append(p.list, problem{at, start, len(p.text)})
}

// forget drops what was added of a place and of all within it.
func (p *problems) forget(at place) {
	p.list = slices.DeleteFunc(p.list, func(one problem) bool { return at.holds(one.at) })
}

func (p *problems) count() int { return len(p.list) + p.more }
func (p *problems) any() bool  { return p.count() > 0 }

// String joins the problems in the order of their places.
func (p *problems) String() string {
	slices.SortStableFunc(p.list, func(a, b problem) int { return cmp.Compare(a.at, b.at) })
	b := make([]byte, 0, len(p.text)+2*len(p.list)+len(" and 1000000 more errors"))
	for i, one := range p.list {
		if i > 0 {
			b = append(b, "; "...)
		}
		b = append(b, p.text[one.start:one.end]...)
	}
	if p.more > 0 {
		b = append(b, "; and "...)
		b = strconv.AppendInt(b, int64(p.more), 10)
		b = append(b, " more errors"...)
	}
	return string(b)
}
