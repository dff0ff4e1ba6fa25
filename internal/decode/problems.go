package decode

import (
	"cmp"
	"slices"
	"strconv"

	"intake"
)

const (
	// maxEchoChars is the maximum length of a partner's text in an error.
	maxEchoChars = 64
	// maxProblemBytes bounds the texts of a batch's errors. A small item can have many
	// errors: without the bound, a body could cost a hundred times its size. Beyond it,
	// an item names leastProblems errors and the number of the others.
	maxProblemBytes = 32 << 20
	leastProblems   = 10
)

// A path is a position in an item: four numbers of 16 bits, so that it costs nothing for
// the many claims that have no error. The first is the property of the item, the second
// the element of that property's array from 1, the third the member of that element from
// 1, the last the element of that member's array from 1. 0 means the whole of what the
// numbers before it name. Paths are ordered like the contract's tables.
type path uint64

func pathOf(property int) path        { return path(property) << 48 }
func (at path) element(i int) path    { return at + path(i+1)<<32 }
func (at path) member(m int) path     { return at + path(m+1)<<16 }
func (at path) value(i int) path      { return at + path(i+1) }
func (at path) part(shift uint) int   { return int(at >> shift & 0xFFFF) }
func (at path) holds(other path) bool { return other&^at.inner() == at }

// inner returns a mask of the bits below the last number that is set.
func (at path) inner() path {
	switch {
	case at.part(32) == 0:
		return 1<<48 - 1
	case at.part(16) == 0:
		return 1<<32 - 1
	}
	return 1<<16 - 1
}

// appendPath appends the text of a path. unknown is its last name if the contract has no
// such name.
func appendPath(b []byte, at path, unknown string) []byte {
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

// appendUnknown appends the name of an unknown property, quoted unless it looks like a
// name.
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

// problems collects the errors of an item. It is reused for the next one.
type problems struct {
	list  []problem
	text  []byte // of the list's problems
	more  int    // number of problems that are not in the list
	spent int    // bytes in the texts of earlier items
}

// A problem is one error. Its text is a part of problems.text.
type problem struct {
	at         path
	start, end int
}

func (p *problems) reset() {
	p.spent += len(p.text)
	p.list, p.text, p.more = p.list[:0], p.text[:0], 0
}

func (p *problems) add(at path, what string) { p.addUnknown(at, "", what) }

// addUnknown adds the problem of an unknown property.
func (p *problems) addUnknown(at path, name, what string) {
	if len(p.list) >= leastProblems && p.spent+len(p.text) > maxProblemBytes {
		p.more++
		return
	}
	start := len(p.text)
	p.text = append(append(appendPath(p.text, at, name), ": "...), what...)
	p.list = append(p.list, problem{at, start, len(p.text)})
}

// forget removes the problems of a path and of everything within it.
func (p *problems) forget(at path) {
	p.list = slices.DeleteFunc(p.list, func(one problem) bool { return at.holds(one.at) })
}

func (p *problems) count() int { return len(p.list) + p.more }
func (p *problems) any() bool  { return p.count() > 0 }

// String joins the problems in the order of their paths.
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
