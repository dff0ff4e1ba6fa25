package intake

import "strconv"

// An Amount is an exact sum of money with four decimals. The zero Amount is 0.
type Amount struct {
	// Neg is never set for zero.
	Neg bool
	// Abs is in ten-thousandths. It is below 10^19: 15 digits before the point.
	Abs uint64
}

// String returns the amount as a decimal number without trailing zeros.
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
