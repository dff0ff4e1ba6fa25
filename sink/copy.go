package sink

import (
	"encoding/binary"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"intake"
)

// The COPY statements. Why the rows are encoded by hand is in the package comment.
const (
	copyClients = `copy partner_clients (id, client_start_date, fingerprint, batch_id, item, partner_id, partner_client_id, entity_type, other_identifiers) from stdin (format binary)`
	copyClaims  = `copy client_claims (client_id, currency, time_periods, start_days, transaction_counts, total_amounts, start_dates, end_dates) from stdin (format binary)`
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

// appendClaims appends a client's row of copyClaims, if it has claims.
func appendClaims(b []byte, row *row) []byte {
	claims := row.client.Claims
	if len(claims) == 0 {
		return b
	}
	b = append(b, 0, 8) // fields
	b = appendInt64(b, row.id)
	b = appendText(b, row.chunk.Currency)
	b = binary.BigEndian.AppendUint32(b, uint32(len(claims)))
	for i := range claims {
		b = append(b, letterOf(claims[i].Period))
	}
	b = appendFixedArray(b, pgtype.DateOID, 4, len(claims))
	for i := range claims {
		b = appendInt32(b, postgresDay(claims[i].Start))
	}
	b = appendFixedArray(b, pgtype.Int8OID, 8, len(claims))
	for i := range claims {
		b = appendInt64(b, claims[i].TransactionCount)
	}
	size := len(b)
	b = appendFixedArray(b, pgtype.NumericOID, 0, len(claims))
	for i := range claims {
		b = appendNumeric(b, claims[i].TotalAmount)
	}
	binary.BigEndian.PutUint32(b[size:], uint32(len(b)-size-4))
	if allWhole(claims) {
		return appendNull(appendNull(b))
	}
	b = appendFixedArray(b, pgtype.TimestamptzOID, 8, len(claims))
	for i := range claims {
		b = appendTimestamp(b, claims[i].Start)
	}
	b = appendFixedArray(b, pgtype.TimestamptzOID, 8, len(claims))
	for i := range claims {
		b = appendTimestamp(b, claims[i].End)
	}
	return b
}

// letterOf returns the letter of a period in client_claims.time_periods.
func letterOf(period intake.Period) byte {
	if period == intake.Monthly {
		return 'M'
	}
	return 'D'
}

const (
	postgresEpochDay = postgresEpoch / microsPerDay
	microsPerDay     = 24 * 60 * 60 * 1_000_000
)

// postgresDay returns the day of a timestamp, in UTC, as the number of days since
// 2000-01-01.
func postgresDay(t intake.Timestamp) int {
	day := t / microsPerDay
	if t%microsPerDay < 0 {
		day--
	}
	return int(day) - postgresEpochDay
}

// allWhole reports whether [wholePeriod] holds for all claims.
func allWhole(claims []intake.RevenueClaim) bool {
	for i := range claims {
		if !wholePeriod(&claims[i]) {
			return false
		}
	}
	return true
}

// wholePeriod reports whether a claim begins with a day, and ends a millisecond before
// the next period begins. It does not where a timestamp was sent with microseconds.
func wholePeriod(claim *intake.RevenueClaim) bool {
	if claim.Start%microsPerDay != 0 {
		return false
	}
	days := 1
	if claim.Period == intake.Monthly {
		year, month, day := time.UnixMicro(int64(claim.Start)).UTC().Date()
		if day != 1 {
			return false
		}
		days = daysIn(year, month)
	}
	return claim.End == claim.Start+intake.Timestamp(days)*microsPerDay-1_000
}

func daysIn(year int, month time.Month) int {
	switch month {
	case time.April, time.June, time.September, time.November:
		return 30
	case time.February:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// appendStatus appends a row of copyStatus.
func appendStatus(b []byte, row *statusRow) []byte {
	b = append(b, 0, 10) // fields
	b = appendUUID(b, row.chunk.Batch)
	for _, v := range [...]int{row.chunk.Number, row.chunk.Chunks, int(row.chunk.Partner), row.chunk.First,
		row.chunk.Len, row.completed} {
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

// appendFixedArray appends the head of an array of n elements of size bytes each, which
// follow it: its length, the number of dimensions, whether there are nulls, the type of
// the elements, their number, and the index of the first one.
func appendFixedArray(b []byte, element uint32, size, n int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(20+n*(4+size)))
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, element)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	return append(b, 0, 0, 0, 1)
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
