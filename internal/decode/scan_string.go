package decode

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"
)

// flawText returns the text of an error about a string with flaws.
func flawText(flaws marks) string {
	switch flaws {
	case holdsNUL:
		return "must not hold U+0000"
	case holdsLoneSurrogate:
		return "must not hold a lone surrogate escape"
	}
	return "must not hold U+0000, nor a lone surrogate escape"
}

// str reads a string from its opening quote, and returns its marks.
func (s *scanner) str() (marks marks) {
	s.pos++
	for {
		s.pos += plainLen(s.body[s.pos:])
		switch s.peek() {
		case '"':
			s.pos++
			return marks
		case '\\':
			marks |= s.escape()
		default:
			if s.pos < len(s.body) {
				s.notJSON("a control character in a string")
			} else {
				s.notJSON("the body ends within a string")
			}
			return marks
		}
	}
}

func (s *scanner) escape() marks {
	rest := s.body[s.pos:]
	if len(rest) < 2 {
		s.pos = len(s.body)
		return escaped
	}
	switch rest[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos += 2
		return escaped
	case 'u':
		r, n := unescapeRune(rest)
		if n == 0 {
			break
		}
		s.pos += n
		switch {
		case r == 0:
			return escaped | holdsNUL
		case utf16.IsSurrogate(r):
			return escaped | holdsLoneSurrogate
		}
		return escaped
	}
	s.notJSON("an unknown escape in a string")
	return escaped
}

// unescapeRune returns the character of the \u escape, or surrogate pair of escapes, at the
// start of b, and its length. It returns a lone surrogate as it is. The length is 0 if
// there is no well-formed escape.
func unescapeRune(b []byte) (r rune, length int) {
	r, ok := escapedUnit(b)
	if !ok {
		return 0, 0
	}
	if utf16.IsSurrogate(r) {
		if low, ok := escapedUnit(b[6:]); ok {
			if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
				return pair, 12
			}
		}
	}
	return r, 6
}

func escapedUnit(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case isDigit(c):
			r = r<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// text returns the value of a string token. It shares memory with the body unless the
// string has escapes.
func (s *scanner) text(t token) string {
	inner := s.body[t.start+1 : t.end-1]
	if t.marks&escaped != 0 {
		inner = unescape(inner)
	}
	return unsafe.String(unsafe.SliceData(inner), len(inner))
}

// unescape resolves the escapes of a well-formed string. A lone surrogate becomes the three
// bytes that UTF-8 would encode it in (WTF-8), so that different strings stay different.
func unescape(in []byte) []byte {
	out := make([]byte, 0, len(in))
	for {
		plain := bytes.IndexByte(in, '\\')
		if plain < 0 {
			return append(out, in...)
		}
		out = append(out, in[:plain]...)
		in = in[plain:]
		switch c := in[1]; c {
		case 'u':
			r, n := unescapeRune(in)
			out, in = appendRune(out, r), in[n:]
			continue
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		default:
			out = append(out, c)
		}
		in = in[2:]
	}
}

func appendRune(b []byte, r rune) []byte {
	if utf16.IsSurrogate(r) { // utf8.AppendRune would replace it by U+FFFD
		return append(b, 0xE0|byte(r>>12), 0x80|byte(r>>6)&0x3F, 0x80|byte(r)&0x3F)
	}
	return utf8.AppendRune(b, r)
}

// longerThan reports whether a string has more than n characters (code points).
func longerThan(s string, chars int) bool {
	return len(s) > chars && utf8.RuneCountInString(s) > chars
}

// holdsControl reports whether a string has a control character: U+0000 to U+001F, or
// U+007F to U+009F.
func holdsControl(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c < ' ' || c == 0x7F || c == 0xC2 && i+1 < len(s) && s[i+1] < 0xA0 {
			return true
		}
	}
	return false
}
