package sink

import (
	"encoding/binary"
	"encoding/json"

	"intake"
)

// The COPY statements. Why the rows are encoded by hand is in the package comment.
const (
	copyClients = `copy partner_clients (id, client_start_date, fingerprint, batch_id, item, partner_id, partner_client_id, entity_type, other_identifiers) from stdin (format binary)`
	copyClaims  = `copy revenue_claims (client_id, start_date, end_date, transaction_count, position, total_amount, time_period, currency) from stdin (format binary)`
	copyStatus  = `copy batch_status (batch_id, chunk, chunks, partner_id, first_item, items, completed, withdrawn, not_saved, keys) from stdin (format binary)`
)

// copyHeader and copyTrailer frame a binary COPY. The header is the signature, the flags
// and the length of the extension, which is absent. The trailer is a field count of -1.
// https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
const (
	copyHeader  = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"
	copyTrailer = "\xff\xff"
)

// postgresEpoch is 2000-01-01 in microseconds since the Unix epoch.
const postgresEpoch = 946_684_800_000_000

// A copyIn is a COPY into a table.
type copyIn struct {
	sql string
	// append appends the rows of the i-th of n elements.
	n      int
	append func(b []byte, i int) []byte
}

// appendClient appends a row of copyClients.
func appendClient(b []byte, row *row) []byte {
	client := row.client
	b = append(b, 0, 9) // fields
	b = appendInt64(b, row.id)
	if client.StartDate == intake.NoTimestamp {
		b = appendNull(b)
	} else {
		b = appendTimestamp(b, client.StartDate)
	}
	b = appendUUID(b, client.Fingerprint)
	b = appendUUID(b, row.chunk.Batch)
	b = appendInt32(b, client.Item)
	b = appendInt32(b, int(row.chunk.Partner))
	b = appendText(b, client.ID)
	b = appendText(b, client.EntityType)
	return appendJSON(b, client.OtherIdentifiers)
}

// appendClaims appends a client's rows of copyClaims.
func appendClaims(b []byte, row *row) []byte {
	for i := range row.client.Claims {
		claim := &row.client.Claims[i]
		b = append(b, 0, 8) // fields
		b = appendInt64(b, row.id)
		b = appendTimestamp(b, claim.Start)
		b = appendTimestamp(b, claim.End)
		b = appendInt64(b, claim.TransactionCount)
		b = append(b, 0, 0, 0, 2, byte(i>>8), byte(i))
		b = appendNumeric(b, claim.TotalAmount)
		b = appendText(b, claim.Period.String())
		b = appendText(b, row.chunk.Currency)
	}
	return b
}

// appendStatus appends a row of copyStatus.
func appendStatus(b []byte, row *statusRow) []byte {
	b = append(b, 0, 10) // fields
	b = appendUUID(b, row.chunk.Batch)
	for _, v := range [...]int{row.chunk.Number, row.chunk.Chunks, int(row.chunk.Partner), row.chunk.First, row.chunk.Len, row.completed} {
		b = appendInt32(b, v)
	}
	b = append(b, 0, 0, 0, 1, 0)
	if row.withdrawn {
		b[len(b)-1] = 1
	}
	b = appendJSON(b, row.notSaved)
	b = append(b, 0, 0, 0, 0)
	size := len(b)
	b = appendKeys(b, row.chunk)
	binary.BigEndian.PutUint32(b[size-4:], uint32(len(b)-size))
	return b
}

func appendNull(b []byte) []byte { return append(b, 0xff, 0xff, 0xff, 0xff) }

func appendInt32(b []byte, v int) []byte {
	b = append(b, 0, 0, 0, 4)
	return binary.BigEndian.AppendUint32(b, uint32(v))
}

func appendInt64(b []byte, v int64) []byte {
	b = append(b, 0, 0, 0, 8)
	return binary.BigEndian.AppendUint64(b, uint64(v))
}

func appendTimestamp(b []byte, t intake.Timestamp) []byte {
	return appendInt64(b, int64(t)-postgresEpoch)
}

func appendUUID(b []byte, v [16]byte) []byte {
	b = append(b, 0, 0, 0, 16)
	return append(b, v[:]...)
}

// appendJSON appends a jsonb: the version of its format, and the text.
func appendJSON(b []byte, text json.RawMessage) []byte {
	if text == nil {
		return appendNull(b)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(1+len(text)))
	b = append(b, 1)
	return append(b, text...)
}

func appendText(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// appendNumeric appends an amount in the binary form of numeric: the number of digits in
// base 10,000, the weight of the first one, the sign, the number of decimals, the digits.
// An amount is in ten-thousandths, so the last such digit holds all of its decimals.
func appendNumeric(b []byte, amount intake.Amount) []byte {
	const (
		base     = 10_000
		negative = 0x4000
		decimals = 4
	)
	var digits [5]uint16 // the least significant first
	n := 0
	for rest := amount.Abs; rest > 0; rest /= base {
		digits[n] = uint16(rest % base)
		n++
	}
	weight := n - 2 // the digit at index 1 counts ones
	low := 0
	for low < n && digits[low] == 0 {
		low++
	}
	if n == 0 {
		weight = 0
	}
	var sign uint16
	if amount.Neg {
		sign = negative
	}
	b = binary.BigEndian.AppendUint32(b, uint32(8+2*(n-low)))
	b = binary.BigEndian.AppendUint16(b, uint16(n-low))
	b = binary.BigEndian.AppendUint16(b, uint16(int16(weight)))
	b = binary.BigEndian.AppendUint16(b, sign)
	b = binary.BigEndian.AppendUint16(b, decimals)
	for i := n - 1; i >= low; i-- {
		b = binary.BigEndian.AppendUint16(b, digits[i])
	}
	return b
}
