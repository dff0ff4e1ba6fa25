package decode

import (
	"encoding/binary"
	"math/bits"
)

// plainDecimal parses a plain JSON number at the start of b: at most 8 digits before the
// point and 8 behind, and no exponent. Nearly all numbers are plain. The length is 0 if there
// is none. The caller must check what follows: it may be the rest of a longer number.
func plainDecimal(b []byte) (d decimal, length int) {
	if len(b) > 0 && b[0] == '-' {
		d.neg = true
		length = 1
	}
	whole, n := leadingDigits(b[length:])
	if n == 0 || n > 1 && b[length] == '0' {
		return decimal{}, 0
	}
	d.digits = whole
	length += n
	if length < len(b) && b[length] == '.' {
		fraction, n := leadingDigits(b[length+1:])
		if n == 0 {
			return decimal{}, 0
		}
		d.digits = whole*powersOfTen[n] + fraction
		d.exp = -int64(n)
		length += 1 + n
	}
	if d.digits == 0 {
		return decimal{}, length
	}
	for d.digits%10 == 0 {
		d.digits /= 10
		d.exp++
	}
	return d, length
}

// leadingDigits returns the number in the first digits of b, at most 8, and how many these
// are.
func leadingDigits(b []byte) (number uint64, n int) {
	const eachByte = 0x0101010101010101
	w := wordOf(b) ^ '0'*eachByte // digits are 0 to 9 now
	// A byte's high bit is set if it is more than 9. A carry can set more bits by mistake,
	// but only behind a right one.
	stops := (w | (w + (0x80-10)*eachByte)) & (0x80 * eachByte)
	n = bits.TrailingZeros64(stops) / 8
	w <<= 64 - 8*n // zeros before the digits rather than other bytes behind them
	w = w*10 + w>>8
	const pairs = 0x000000FF000000FF // of digits, the first and the third
	return (w&pairs*(1_000_000<<32+100) + w>>16&pairs*(10_000<<32+1)) >> 32, n
}

// wordOf returns the first 8 bytes of b, as if there were zeros behind it.
func wordOf(b []byte) uint64 {
	if len(b) >= 8 {
		return binary.LittleEndian.Uint64(b)
	}
	var padded [8]byte
	copy(padded[:], b)
	return binary.LittleEndian.Uint64(padded[:])
}

// powersOfTen has those that fit into 64 bits.
var powersOfTen = [...]uint64{
	1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19,
}
