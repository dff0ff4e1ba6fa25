package sink

import (
	"encoding/binary"

	"intake"
)

const copyClaims = `copy revenue_claims (client_id, start_date, end_date, transaction_count, position, total_amount, time_period, currency) from stdin (format binary)`

// copyHeader and copyTrailer frame a binary COPY: signature, flags and length
// of an extension that isn't there; a count of fields that says the end.
// https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
const (
	copyHeader  = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"
	copyTrailer = "\xff\xff"
)

// postgresEpoch is 2000-01-01 in microseconds since the Unix epoch.
const postgresEpoch = 946_684_800_000_000

// appendClaims appends a client's claims as rows of copyClaims. Writing them
// from the numbers straight into the format costs a tenth of what it costs to
// have a driver encode them as values.
func appendClaims(b []byte, clientID int64, currency string, claims []intake.RevenueClaim) []byte {
	for i := range claims {
		claim := &claims[i]
		b = append(b, 0, 8) // fields
		b = appendInt64(b, clientID)
		b = appendInt64(b, int64(claim.Start)-postgresEpoch)
		b = appendInt64(b, int64(claim.End)-postgresEpoch)
		b = appendInt64(b, claim.TransactionCount)
		b = append(b, 0, 0, 0, 2, byte(i>>8), byte(i))
		b = appendNumeric(b, claim.TotalAmount)
		b = appendText(b, claim.Period.String())
		b = appendText(b, currency)
	}
	return b
}

func appendInt64(b []byte, v int64) []byte {
	b = append(b, 0, 0, 0, 8)
	return binary.BigEndian.AppendUint64(b, uint64(v))
}

func appendText(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// appendNumeric appends an amount as numeric's binary form: how many digits of
// base 10,000 there are, the weight of the first, sign, decimals, digits. An
// amount counts ten-thousandths, so its last such digit is all of its decimals.
func appendNumeric(b []byte, amount intake.Amount) []byte {
	const (
		base     = 10_000
		negative = 0x4000
		decimals = 4
	)
	var digits [5]uint16 // least first
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
