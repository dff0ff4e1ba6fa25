package intake

import "strconv"

// An Amount is an exact sum of money with four decimals. The zero Amount is 0.
type Amount struct {
	// Neg is never set for zero.
	Neg bool
	// Abs counts ten-thousandths, and is below 10^19: 15 digits before the point.
	Abs uint64
}

const (
	amountDecimals = 4
	amountEnd      = 10_000_000_000_000_000_000 // of Amount.Abs
	maxCount       = 1_000_000_000_000          // of a transaction_count, either way
)

// String gives the amount as a decimal number without needless zeros.
func (a Amount) String() string {
	b := make([]byte, 0, 24)
	if a.Neg {
		b = append(b, '-')
	}
	b = strconv.AppendUint(b, a.Abs/10_000, 10)
	rest := a.Abs % 10_000
	if rest == 0 {
		return string(b)
	}
	b = append(b, '.')
	for unit := uint64(1_000); rest > 0; unit /= 10 {
		b = append(b, byte('0'+rest/unit))
		rest %= unit
	}
	return string(b)
}

// amount gives the decimal as an Amount, if it is one.
func (d decimal) amount() (Amount, bool) {
	shift := d.exp + amountDecimals
	if d.long || shift < 0 {
		return Amount{}, false
	}
	abs, ok := shifted(d.digits, shift, amountEnd)
	return Amount{d.neg, abs}, ok
}

// count gives the decimal as a transaction_count, if it is within the bounds
// of one. It must be whole.
func (d decimal) count() (int64, bool) {
	if d.long {
		return 0, false
	}
	abs, ok := shifted(d.digits, d.exp, maxCount+1)
	if d.neg {
		return -int64(abs), ok
	}
	return int64(abs), ok
}

func (d decimal) whole() bool { return d.exp >= 0 }

// shifted gives n × 10^exp, if it is below end.
func shifted(n uint64, exp int64, end uint64) (uint64, bool) {
	for ; exp > 0 && n > 0; exp-- {
		if n >= end/10+1 { // also before n × 10 overflows
			return 0, false
		}
		n *= 10
	}
	return n, n < end
}
