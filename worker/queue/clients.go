package queue

import (
	"encoding/binary"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"intake"
)

// claimSize is the size of a claim: start, end, amount and count at 8 bytes each, and a byte for the
// period and the amount's sign.
const claimSize = 4*8 + 1

// negative is the bit of an amount's sign, beside the period.
const negative = 0x80

// appendClients appends clients in the form in which they are queued: the numbers of clients and of all
// their claims, then each client with its claims. Claims have a fixed size and counts come first, so
// that readClients needs three allocations, and neighbouring claims compress well. The form has no
// field numbers: new data belongs in a field of its own, or needs a new messageVersion.
func appendClients(b []byte, clients []intake.PartnerClient) []byte {
	size, claims := 0, 0
	for i := range clients {
		c := &clients[i]
		size += 64 + len(c.ID) + len(c.EntityType) + len(c.OtherIdentifiers) + len(c.Claims)*claimSize
		claims += len(c.Claims)
	}
	b = slices.Grow(b, size)
	b = binary.AppendUvarint(b, uint64(len(clients)))
	b = binary.AppendUvarint(b, uint64(claims))
	for i := range clients {
		c := &clients[i]
		b = binary.AppendUvarint(b, uint64(c.Item))
		b = append(b, c.Fingerprint[:]...)
		b = binary.LittleEndian.AppendUint64(b, uint64(c.StartDate))
		b = protowire.AppendString(b, c.ID)
		b = protowire.AppendString(b, c.EntityType)
		b = protowire.AppendBytes(b, c.OtherIdentifiers)
		b = binary.AppendUvarint(b, uint64(len(c.Claims)))
		for j := range c.Claims {
			b = appendClaim(b, &c.Claims[j])
		}
	}
	return b
}

func appendClaim(b []byte, claim *intake.RevenueClaim) []byte {
	flags := byte(claim.Period)
	if claim.TotalAmount.Neg {
		flags |= negative
	}
	b = append(b, flags)
	b = binary.LittleEndian.AppendUint64(b, uint64(claim.Start))
	b = binary.LittleEndian.AppendUint64(b, uint64(claim.End))
	b = binary.LittleEndian.AppendUint64(b, claim.TotalAmount.Abs)
	return binary.LittleEndian.AppendUint64(b, uint64(claim.TransactionCount))
}

// readClients reads what appendClients has written. Byte slices of the result are parts of b.
func readClients(b []byte) ([]intake.PartnerClient, error) {
	text := string(b) // one copy, which all strings are parts of
	r := reader{rest: b}
	str := func() string {
		n := r.number(len(b))
		at := len(b) - len(r.rest)
		if r.bytes(n) == nil {
			return ""
		}
		return text[at : at+n]
	}
	clients := make([]intake.PartnerClient, r.number(min(len(b), intake.MaxBatchItems)))
	claims := make([]intake.RevenueClaim, r.number(len(b)/claimSize))
	for i := range clients {
		c := &clients[i]
		c.Item = r.number(intake.MaxBatchItems)
		copy(c.Fingerprint[:], r.bytes(len(c.Fingerprint)))
		c.StartDate = intake.Timestamp(r.uint64())
		c.ID = str()
		c.EntityType = str()
		if identifiers := r.bytes(r.number(len(b))); len(identifiers) > 0 {
			c.OtherIdentifiers = identifiers
		}
		n := r.number(len(claims))
		if r.err != nil {
			return nil, r.err
		}
		c.Claims, claims = claims[:n:n], claims[n:]
		for j := range c.Claims {
			r.claim(&c.Claims[j])
		}
	}
	if len(r.rest) > 0 || len(claims) > 0 {
		r.fail()
	}
	return clients, r.err
}

func (r *reader) claim(claim *intake.RevenueClaim) {
	b := r.bytes(claimSize)
	if b == nil {
		return
	}
	claim.Period = intake.Period(b[0] &^ negative)
	claim.TotalAmount.Neg = b[0]&negative != 0
	claim.Start = intake.Timestamp(binary.LittleEndian.Uint64(b[1:]))
	claim.End = intake.Timestamp(binary.LittleEndian.Uint64(b[9:]))
	claim.TotalAmount.Abs = binary.LittleEndian.Uint64(b[17:])
	claim.TransactionCount = int64(binary.LittleEndian.Uint64(b[25:]))
}

// MemoryOf returns about how many bytes of memory a chunk takes that was read from a message.
// Compressed, it may be a thousand times smaller.
func MemoryOf(chunk *intake.Chunk) int {
	const client, claim, verdict = 112, 48, 40 // sizes of the structs
	n := 0
	for i := range chunk.Clients {
		c := &chunk.Clients[i]
		// readClients keeps its input, and a copy of it for the strings.
		n += client + 2*(len(c.ID)+len(c.EntityType)+len(c.OtherIdentifiers)) + (claim+claimSize)*len(c.Claims)
	}
	for i := range chunk.Rejected {
		n += verdict + len(chunk.Rejected[i].Text)
	}
	return n
}
