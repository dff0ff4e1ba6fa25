package traffic

import (
	"bytes"
	"strconv"
)

// A Template is a batch that can be copied with new keys.
type Template struct {
	body []byte
	keys []int // where the text of each key begins
}

// NewTemplate finds the keys of a batch, which must be valid JSON.
func NewTemplate(body []byte) *Template {
	t := &Template{body: body}
	// Within a string the quotes would be escaped, so this is always a name.
	name := []byte(`"partner_client_id"`)
	for at := 0; ; {
		found := bytes.Index(body[at:], name)
		if found < 0 {
			return t
		}
		at += found + len(name)
		rest := bytes.TrimLeft(body[at:], " \t\r\n:")
		if bytes.HasPrefix(rest, []byte(`"`)) && !bytes.HasPrefix(rest, []byte(`""`)) {
			t.keys = append(t.keys, len(body)-len(rest)+1)
		}
	}
}

// Items returns how many keys the batch has.
func (t *Template) Items() int { return len(t.keys) }

// Append appends the batch with the keys of a round: unchanged in round 0, and
// prefixed with the round's number in any other.
func (t *Template) Append(b []byte, round int) []byte {
	if round == 0 {
		return append(b, t.body...)
	}
	prefix := strconv.AppendInt(nil, int64(round), 36)
	prefix = append(prefix, '-')
	at := 0
	for _, key := range t.keys {
		b = append(b, t.body[at:key]...)
		b = append(b, prefix...)
		at = key
	}
	return append(b, t.body[at:]...)
}
