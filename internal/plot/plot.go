// Package plot has what the pictures of the reports share: axes with round
// numbers, and numbers as people read them.
package plot

import (
	"math"
	"strconv"
	"strings"
)

// Ticks returns round numbers from 0 to the first one that is not below top, at
// most about as many as are asked for. Their distance is 1, 2 or 5 times a power
// of ten.
func Ticks(top float64, most int) (ticks []float64) {
	if top <= 0 || most < 1 {
		return []float64{0, 1}
	}
	step := math.Pow(10, math.Floor(math.Log10(top/float64(most))))
	for _, factor := range []float64{2, 2.5, 2} { // 1, 2, 5, 10
		if step*float64(most) >= top*(1-1e-9) {
			break
		}
		step *= factor
	}
	for n := 0; ; n++ {
		ticks = append(ticks, float64(n)*step)
		if ticks[n] >= top*(1-1e-9) {
			return ticks
		}
	}
}

// LogTicks returns 1, 2 and 5 times powers of ten, from the last one that is not
// above low to the first one that is not below high. If these are more than ten,
// it returns powers of ten only. Both bounds must be positive.
func LogTicks(low, high float64) []float64 {
	ticks := logTicks(low, high, 1, 2, 5)
	if len(ticks) > 10 {
		ticks = logTicks(low, high, 1)
	}
	return ticks
}

func logTicks(low, high float64, factors ...float64) (ticks []float64) {
	for exponent := math.Floor(math.Log10(low)); ; exponent++ {
		for _, factor := range factors {
			tick := factor * math.Pow(10, exponent)
			if tick <= low*(1+1e-9) {
				ticks = ticks[:0] // a later one is closer
			}
			ticks = append(ticks, tick)
			if tick >= high*(1-1e-9) && tick > low {
				return ticks
			}
		}
	}
}

// Number returns a number with commas between thousands: whole from 10 on, else
// with two significant digits.
func Number(v float64) string {
	if math.Abs(v) < 10 && v != math.Trunc(v) {
		return strconv.FormatFloat(v, 'g', 2, 64)
	}
	digits := strconv.FormatFloat(math.Abs(v), 'f', 0, 64)
	var b strings.Builder
	if v < 0 {
		b.WriteByte('-')
	}
	for i, digit := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(digit)
	}
	return b.String()
}
