package decode

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strconv"

	"intake"
)

// A decimal is the exact value of a JSON number: ±digits × 10^exp. Equal numbers have
// equal decimals: the last digit is never 0, and zero is 0 × 10^0 without a sign.
type decimal struct {
	neg    bool
	digits uint64
	exp    int64
	// long is set if there are more digits than maxDigits or the exponent is beyond
	// maxExp. The digits are undefined then; the sign of exp is right.
	long bool
}

const (
	maxDigits = 19 // that fit into 64 bits
	maxExp    = 1_000_000_000
	// Larger exponents are clamped to hugeExp while reading. A body has too few digits
	// to bring one back below maxExp.
	hugeExp = 1_000_000_000_000_000
)

// parseDecimal parses a well-formed JSON number in one pass over its bytes, whatever its
// exponent.
func parseDecimal(num []byte) decimal {
	if d, length := plainDecimal(num); length == len(num) {
		return d
	}
	return parseAnyDecimal(num)
}

func parseAnyDecimal(num []byte) (d decimal) {
	var (
		digits   int  // from the first to the last that is not 0
		zeros    int  // since then
		decimals int  // behind the point
		point    bool // was seen
	)
	d.neg = num[0] == '-'
	if d.neg {
		num = num[1:]
	}
	for i, c := range num {
		if c == '.' {
			point = true
			continue
		}
		if c|0x20 == 'e' {
			d.exp = parseExponent(num[i+1:])
			break
		}
		if point {
			decimals++
		}
		if c == '0' {
			if digits > 0 {
				zeros++
			}
			continue
		}
		for ; zeros > 0; zeros-- {
			d.digits *= 10
			digits++
		}
		d.digits = d.digits*10 + uint64(c-'0')
		digits++
	}
	if digits == 0 {
		return decimal{}
	}
	d.exp += int64(zeros - decimals)
	d.long = digits > maxDigits || d.exp > maxExp || d.exp < -maxExp
	return d
}

func parseExponent(b []byte) (exp int64) {
	neg := b[0] == '-'
	if neg || b[0] == '+' {
		b = b[1:]
	}
	for _, c := range b {
		exp = min(exp*10+int64(c-'0'), hugeExp)
	}
	if neg {
		return -exp
	}
	return exp
}

// appendNumber appends the canonical form of a well-formed JSON number; see
// Fingerprint.
func appendNumber(b, num []byte) []byte {
	d := parseDecimal(num)
	if d.long {
		return appendLongNumber(b, num)
	}
	return appendDecimal(b, d)
}

func appendDecimal(b []byte, d decimal) []byte {
	if d.neg {
		b = append(b, '-')
	} else {
		b = append(b, '+')
	}
	b = binary.AppendUvarint(b, d.digits)
	return binary.AppendVarint(b, d.exp)
}

// appendLongNumber appends the canonical form of a number with digits and exponent of any
// length, as text.
func appendLongNumber(b, num []byte) []byte {
	tag := byte('P')
	if num[0] == '-' {
		tag, num = 'N', num[1:]
	}
	mantissa, exponent := num, []byte("0")
	if i := bytes.IndexAny(num, "eE"); i >= 0 {
		mantissa, exponent = num[:i], num[i+1:]
	}
	whole, behind, _ := bytes.Cut(mantissa, []byte("."))
	all := bytes.TrimLeft(append(append(make([]byte, 0, len(mantissa)), whole...), behind...), "0")
	digits := bytes.TrimRight(all, "0")

	b = append(b, tag)
	b = binary.AppendUvarint(b, uint64(len(digits)))
	b = append(b, digits...)
	exp := addExponent(exponent, int64(len(all)-len(digits)-len(behind)))
	b = binary.AppendUvarint(b, uint64(len(exp)))
	return append(b, exp...)
}

// addExponent adds a number to the exponent of a JSON number, which may have
// millions of digits (math/big takes more than linear time for those).
func addExponent(exponent []byte, n int64) []byte {
	neg := exponent[0] == '-'
	digits := append([]byte("0"), bytes.TrimLeft(exponent, "+-0")...) // room for the carry
	if len(digits) <= 16 {                                            // below hugeExp
		return strconv.AppendInt(nil, parseExponent(exponent)+n, 10)
	}
	if neg {
		n = -n
	}
	// The exponent is larger than n can be, so no borrow is left over.
	for i := len(digits) - 1; n != 0; i-- {
		n += int64(digits[i] - '0')
		digit := ((n % 10) + 10) % 10
		digits[i] = byte('0' + digit)
		n = (n - digit) / 10
	}
	digits = bytes.TrimLeft(digits, "0")
	if neg {
		return append([]byte("-"), digits...)
	}
	return digits
}

const (
	amountDecimals = 4
	amountEnd      = 10_000_000_000_000_000_000 // of Amount.Abs
	maxCount       = 1_000_000_000_000          // of a transaction_count, either way
)

// amount returns the decimal as an Amount; ok is false if it is out of bounds.
func (d decimal) amount() (intake.Amount, bool) {
	shift := d.exp + amountDecimals
	if d.long || shift < 0 {
		return intake.Amount{}, false
	}
	abs, ok := shifted(d.digits, shift, amountEnd)
	return intake.Amount{Neg: d.neg, Abs: abs}, ok
}

// count returns the decimal, which must be whole, as a transaction_count; ok is false if
// it is out of bounds.
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

// shifted returns n × 10^exp; ok is false if that is not below end.
func shifted(n uint64, exp int64, end uint64) (uint64, bool) {
	if exp >= int64(len(powersOfTen)) {
		return 0, false
	}
	overflow, product := bits.Mul64(n, powersOfTen[max(exp, 0)])
	return product, overflow == 0 && product < end
}
