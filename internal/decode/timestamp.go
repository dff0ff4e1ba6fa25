package decode

import (
	"time"

	"intake"
)

const (
	millisecond intake.Timestamp = 1000
	second                       = 1000 * millisecond
	day                          = 86_400 * second

	minTimestamp intake.Timestamp = -62_135_596_800 * second // 0001-01-01T00:00:00Z
	endTimestamp intake.Timestamp = 253_402_300_800 * second // 10000-01-01T00:00:00Z
)

// ParseTimestamp parses a timestamp of the contract: RFC 3339 §5.6, or the form
// 2025-01-31T23:59:59:999, which is in UTC. It truncates to microseconds. A leap second
// (RFC 3339 §5.7) becomes the next second.
func ParseTimestamp(s string) (intake.Timestamp, bool) {
	// time.Parse is five times slower, rejects leap seconds, and accepts a comma as the
	// decimal point.
	if len(s) < len("2006-01-02T15:04:05Z") || s[4] != '-' || s[7] != '-' || s[10]|0x20 != 't' || s[13] != ':' ||
		s[16] != ':' {
		return 0, false
	}
	century, year := twoDigits(s[0:]), twoDigits(s[2:])
	month, dayOfMonth := twoDigits(s[5:]), twoDigits(s[8:])
	hour, minute, sec := twoDigits(s[11:]), twoDigits(s[14:]), twoDigits(s[17:])
	if century > 99 || year > 99 || month < 1 || month > 12 || hour > 23 || minute > 59 || sec > 60 {
		return 0, false
	}
	year += 100 * century
	if dayOfMonth < 1 || dayOfMonth > daysIn(year, month) {
		return 0, false
	}
	fraction, rest, ok := parseFraction(s[19:])
	if !ok {
		return 0, false
	}
	offset, ok := parseOffset(rest)
	if !ok {
		return 0, false
	}

	leap := sec == 60
	if leap {
		sec = 59
	}
	t := intake.Timestamp(daysSinceEpoch(year, month, dayOfMonth))*day + intake.Timestamp(hour*3600+minute*60+
		sec-offset)*second
	if leap {
		t += second
		if _, m, d := dateOf(t); t%day != 0 || d != 1 || m != 1 && m != 7 {
			return 0, false
		}
	}
	t += fraction
	return t, minTimestamp <= t && t < endTimestamp
}

// parseFraction parses the fraction behind the seconds, if any, and returns the rest. For
// the form with a colon, the rest is "Z".
func parseFraction(s string) (fraction intake.Timestamp, rest string, ok bool) {
	if s[0] != '.' && s[0] != ':' {
		return 0, s, true
	}
	i, unit := 1, second/10
	for ; i < len(s) && isDigit(s[i]); i++ {
		fraction += unit * intake.Timestamp(s[i]-'0')
		unit /= 10
	}
	if s[0] == ':' {
		return fraction, "Z", i == len(":999") && i == len(s)
	}
	return fraction, s[i:], i > 1
}

// parseOffset parses a zone. It returns seconds east of UTC.
func parseOffset(s string) (offset int, ok bool) {
	if s == "Z" || s == "z" {
		return 0, true
	}
	if len(s) != len("+00:00") || s[3] != ':' {
		return 0, false
	}
	hours, minutes := twoDigits(s[1:]), twoDigits(s[4:])
	offset = hours*3600 + minutes*60
	if s[0] == '-' {
		offset = -offset
	}
	return offset, (s[0] == '+' || s[0] == '-') && hours <= 23 && minutes <= 59
}

// twoDigits returns the number in the first two bytes of s, or more than 99 if they are
// not digits.
func twoDigits(s string) int {
	tens, ones := s[0]-'0', s[1]-'0'
	if tens > 9 || ones > 9 {
		return 100
	}
	return int(tens)*10 + int(ones)
}

func daysIn(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// daysSinceEpoch counts the days from 1970-01-01 to a date of the Gregorian
// calendar. Years begin in March here, so that leap days come last (Howard
// Hinnant, chrono-Compatible Low-Level Date Algorithms, days_from_civil).
func daysSinceEpoch(year, month, dayOfMonth int) int {
	if month <= 2 {
		year--
		month += 12
	}
	year += 400 // the algorithm's eras of 400 years, without negative numbers
	return year*365 + year/4 - year/100 + year/400 + (153*(month-3)+2)/5 + dayOfMonth - 1 - (719_468 + 146_097)
}

// dateOf returns the day of a moment in UTC.
func dateOf(t intake.Timestamp) (year, month, dayOfMonth int) {
	y, m, d := time.UnixMicro(int64(t)).UTC().Date()
	return y, int(m), d
}

// startOf returns the first moment of the month or day that t is in.
func startOf(p intake.Period, t intake.Timestamp) intake.Timestamp {
	year, month, dayOfMonth := dateOf(t)
	if p == intake.Monthly {
		dayOfMonth = 1
	}
	return intake.Timestamp(daysSinceEpoch(year, month, dayOfMonth)) * day
}

// spans reports whether the period from start to end is a whole one.
func spans(p intake.Period, start, end intake.Timestamp) bool {
	return startOf(p, start) == start && lastOf(p, start) == end
}

// lastOf returns the last moment, in milliseconds, of the period that starts at t.
func lastOf(p intake.Period, t intake.Timestamp) intake.Timestamp {
	length := day
	if p == intake.Monthly {
		year, month, _ := dateOf(t)
		length *= intake.Timestamp(daysIn(year, month))
	}
	return t + length - millisecond
}

// inMilliseconds truncates to milliseconds.
func inMilliseconds(t intake.Timestamp) intake.Timestamp {
	return t - ((t%millisecond)+millisecond)%millisecond
}
