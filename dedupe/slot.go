package dedupe

import (
	"crypto/sha256"
	"encoding/binary"

	"intake"
)

// A slot is the position of a key in Redis: the name of a bucket, which is a hash, and a field
// there. The name is namePrefix, the timeline, a colon, the partner, and the first two bytes of
// the SHA-256 of the key; the field is the next ones. All but the timeline is binary, to be short.
const (
	namePrefix = "intake:seen:"
	fieldSize  = 14
	dataSize   = len(intake.Fingerprint{})
)

// A slotter appends slots of a timeline.
type slotter struct {
	prefix   string // of the names
	nameSize int
}

func slotterOf(timeline string) slotter {
	prefix := namePrefix + timeline + ":"
	return slotter{prefix, len(prefix) + 4 + 2}
}

// size returns the number of bytes in a slot.
func (s slotter) size() int { return s.nameSize + fieldSize }

func (s slotter) appendSlot(b []byte, partner int32, id string) []byte {
	digest := sha256.Sum256(append(b, id...)[len(b):]) // []byte(id) may allocate
	b = append(b, s.prefix...)
	b = binary.BigEndian.AppendUint32(b, uint32(partner))
	return append(b, digest[:2+fieldSize]...)
}

// commandsOf returns the arguments of commands with the same name, one command after the other.
// The other arguments are consecutive pieces of text, of these sizes in turn. They are pointers
// because a string in an interface would take an allocation.
func commandsOf(name, text string, sizes ...int) []any {
	total := 0
	for _, size := range sizes {
		total += size
	}
	n := len(text) / total
	pieces := make([]string, 0, n*len(sizes))
	args := make([]any, 0, n*(1+len(sizes)))
	for first := any(name); len(text) > 0; {
		args = append(args, first)
		for _, size := range sizes {
			pieces = append(pieces, text[:size])
			args = append(args, &pieces[len(pieces)-1])
			text = text[size:]
		}
	}
	return args
}
