package decode

import (
	"encoding/binary"
	"math/bits"

	"intake"
)

// A kind is the type of a JSON value.
type kind uint8

const (
	absent kind = iota // no value at all
	null
	boolean
	number
	text
	array
	object
)

// String returns the kind as errors name it: "must be …, not …".
func (k kind) String() string {
	return [...]string{"nothing", "null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// A token is a JSON value in the body. It has four fields because the compiler keeps no
// larger struct in registers.
type token struct {
	start, end int // offsets in the body, quotes or brackets included
	kind       kind
	marks      marks
}

// marks are properties of a token.
type marks uint8

const (
	escaped  marks = 1 << iota // a string with an escape in it
	repeated                   // a property's value, but not the only one
	// Flaws: JSON allows these in a string, and the contract does not. Postgres cannot
	// store the one, and UTF-8 not the other. An array or object has the flaws of all
	// strings in it, including the names of members.
	holdsNUL
	holdsLoneSurrogate

	flaws = holdsNUL | holdsLoneSurrogate
)

func (t token) repeated() bool { return t.marks&repeated != 0 }
func (t token) flaws() marks   { return t.marks & flaws }

// A scanner steps through JSON and checks its grammar (RFC 8259). The body must be UTF-8.
//
// After the first error it stays at the end of the body, so that further steps find
// nothing. Only the caller that reads the whole body has to check err.
type scanner struct {
	body  []byte
	pos   int
	depth int
	err   *SyntaxError
}

func (s *scanner) fail(code string, offset int, reason string) {
	if s.err == nil {
		s.err = &SyntaxError{Code: code, Offset: offset, Reason: reason}
	}
	s.pos = len(s.body)
}

func (s *scanner) notJSON(why string) { s.fail(NotJSON, s.pos, "not JSON: "+why) }

// missing sets the error for a byte that the grammar does not allow here.
func (s *scanner) missing(what string) {
	if s.pos < len(s.body) {
		s.notJSON("expected " + what)
	} else {
		s.notJSON("the body ends where there should be " + what)
	}
}

// peek returns the next byte, or 0 at the end. JSON has no 0 byte.
func (s *scanner) peek() byte {
	if s.pos < len(s.body) {
		return s.body[s.pos]
	}
	return 0
}

func (s *scanner) space() {
	for s.pos < len(s.body) {
		switch s.body[s.pos] {
		case ' ', '\n', '\r', '\t':
			s.pos++
		default:
			return
		}
	}
}

// open steps into an array or object; more steps out of it.
func (s *scanner) open() {
	s.depth++
	if s.depth > intake.MaxDepth {
		s.fail(TooDeep, s.pos, "nested deeper than 32 levels")
		return
	}
	s.pos++
}

// more steps to the next element of an array or member of an object, and reports whether
// there is one. If not, it steps out.
func (s *scanner) more(first bool, closing byte) bool {
	s.space()
	switch c := s.peek(); {
	case c == closing:
		s.pos++
		s.depth--
		return false
	case first && s.pos < len(s.body):
		return true
	case c == ',' && !first:
		s.pos++
		s.space()
		return true
	}
	if closing == ']' {
		s.missing(`"," or "]"`)
	} else {
		s.missing(`"," or "}"`)
	}
	return false
}

// name reads the name of a member and the colon behind it.
func (s *scanner) name() token {
	if s.peek() != '"' {
		s.missing("a property name in double quotes")
		return token{}
	}
	start := s.pos
	marks := s.str()
	end := s.pos
	s.space()
	if s.peek() != ':' {
		s.missing(`":"`)
		return token{}
	}
	s.pos++
	s.space()
	return token{start, end, text, marks}
}

// skipName reads the name of a member and the colon behind it if the name is this one, in
// the usual spelling, and reports whether it is.
func (s *scanner) skipName(name string) bool {
	end := s.pos + 1 + len(name)
	if end+1 >= len(s.body) || s.body[s.pos] != '"' || string(s.body[s.pos+1:end]) != name ||
		s.body[end] != '"' || s.body[end+1] != ':' {
		return false
	}
	s.pos = end + 2
	s.space()
	return true
}

// value reads a value of any kind. The token of a malformed value is absent.
func (s *scanner) value() token {
	var (
		start = s.pos
		kind  kind
		marks marks
	)
	switch s.peek() {
	case '"':
		kind, marks = text, s.str()
	case '{':
		kind = object
		s.open()
		for first := true; s.more(first, '}'); first = false {
			marks |= s.name().flaws()
			marks |= s.value().flaws()
		}
	case '[':
		kind = array
		s.open()
		for first := true; s.more(first, ']'); first = false {
			marks |= s.value().flaws()
		}
	case 't':
		kind = boolean
		s.literal("true")
	case 'f':
		kind = boolean
		s.literal("false")
	case 'n':
		kind = null
		s.literal("null")
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		kind = number
		s.number()
	default:
		s.missing("a value")
	}
	if s.err != nil {
		return token{}
	}
	return token{start, s.pos, kind, marks}
}

func (s *scanner) literal(word string) {
	if end := s.pos + len(word); end <= len(s.body) && string(s.body[s.pos:end]) == word {
		s.pos = end
		return
	}
	s.missing(word)
}

func (s *scanner) number() {
	if s.peek() == '-' {
		s.pos++
	}
	if s.peek() == '0' {
		s.pos++
	} else {
		s.digits()
	}
	if s.peek() == '.' {
		s.pos++
		s.digits()
	}
	if s.peek()|0x20 == 'e' {
		s.pos++
		if c := s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		s.digits()
	}
}

// digits skips one or more digits.
func (s *scanner) digits() {
	i := s.pos
	for i < len(s.body) && isDigit(s.body[i]) {
		i++
	}
	if i == s.pos {
		s.missing("a digit")
		return
	}
	s.pos = i
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// source returns the text of a token as it was sent.
func (s *scanner) source(t token) []byte { return s.body[t.start:t.end] }

// plainLen counts the bytes before the first quote, backslash or control
// character, eight at a time: most bytes of a body are in strings.
func plainLen(b []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	n := 0
	for ; len(b)-n >= 8; n += 8 {
		w := binary.LittleEndian.Uint64(b[n:])
		quotes, slashes := w^('"'*ones), w^('\\'*ones)
		// A byte's high bit is set where the byte is zero, or below 0x20. A
		// borrow can set more bits by mistake, but only behind a right one.
		stops := ((quotes-ones)&^quotes | (slashes-ones)&^slashes | (w-' '*ones)&^w) & highs
		if stops != 0 {
			return n + bits.TrailingZeros64(stops)/8
		}
	}
	for n < len(b) && b[n] != '"' && b[n] != '\\' && b[n] >= ' ' {
		n++
	}
	return n
}
