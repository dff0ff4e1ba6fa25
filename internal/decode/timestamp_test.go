package decode_test

import (
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"intake"
	"intake/internal/decode"
)

func TestParseTimestamp(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"2025-01-31T23:59:59.999Z", "2025-01-31T23:59:59.999Z"},
		{"2025-01-31t23:59:59.999z", "2025-01-31T23:59:59.999Z"},
		{"2025-01-31T23:59:59Z", "2025-01-31T23:59:59.000Z"},
		{"2025-01-31T23:59:59.1Z", "2025-01-31T23:59:59.100Z"},
		{"2025-01-31T23:59:59.123456Z", "2025-01-31T23:59:59.123456Z"},
		{"2025-01-31T23:59:59.1234569999999999999999Z", "2025-01-31T23:59:59.123456Z"},
		{"1969-12-31T23:59:59.9999999Z", "1969-12-31T23:59:59.999999Z"},
		{"2025-01-31T23:59:59.999+05:30", "2025-01-31T18:29:59.999Z"},
		{"2025-01-31T23:59:59-00:00", "2025-01-31T23:59:59.000Z"},
		{"2025-01-31T23:59:59-23:59", "2025-02-01T23:58:59.000Z"},
		{"2024-02-29T00:00:00Z", "2024-02-29T00:00:00.000Z"},
		{"2000-02-29T00:00:00Z", "2000-02-29T00:00:00.000Z"},
		{"0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"},
		{"9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"},

		// The reference's own spelling.
		{"2025-01-31T23:59:59:999", "2025-01-31T23:59:59.999Z"},
		{"2025-01-31T23:59:59:999Z", ""},
		{"2025-01-31T23:59:59:99", ""},
		{"2025-01-31T23:59:59:9999", ""},
		{"2025-01-31T23:59:59:", ""},
		{"2025-01-31T23:59:59.999", ""},

		// Leap seconds, where there can be one.
		{"2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"},
		{"2015-06-30T23:59:60.5Z", "2015-07-01T00:00:00.500Z"},
		{"2017-01-01T00:59:60+01:00", "2017-01-01T00:00:00.000Z"},
		{"2016-12-31T23:59:60+01:00", ""},
		{"2016-12-30T23:59:60Z", ""},
		{"2016-12-31T23:58:60Z", ""},
		{"2016-09-30T23:59:60Z", ""},
		{"2016-12-31T23:59:61Z", ""},
		{"9999-12-31T23:59:60Z", ""},

		{"", ""},
		{"2025-01-31", ""},
		{"2025-01-31T23:59:59", ""},
		{"2025-01-31 23:59:59Z", ""},
		{"2025-01-31T23:59Z", ""},
		{"2025-01-31T24:00:00Z", ""},
		{"2025-01-31T23:60:00Z", ""},
		{"2025-02-29T00:00:00Z", ""},
		{"1900-02-29T00:00:00Z", ""},
		{"2025-04-31T00:00:00Z", ""},
		{"2025-00-01T00:00:00Z", ""},
		{"2025-13-01T00:00:00Z", ""},
		{"2025-01-00T00:00:00Z", ""},
		{"2025-1-31T23:59:59Z", ""},
		{"2025-01-31T23:59:59.Z", ""},
		{"2025-01-31T23:59:59,5Z", ""},
		{"2025-01-31T23:59:59.999ZZ", ""},
		{"2025-01-31T23:59:59+24:00", ""},
		{"2025-01-31T23:59:59+01:60", ""},
		{"2025-01-31T23:59:59+0100", ""},
		{"2025-01-31T23:59:59+01", ""},
		{"2025-01-31T23:59:59 01:00", ""},
		{"0000-12-31T00:00:00Z", ""},
		{"0001-01-01T00:00:00+00:01", ""},
		{"9999-12-31T23:59:59-00:01", ""},
		{"+2025-01-31T23:59:59Z", ""},
		{"２025-01-31T23:59:59Z", ""},
		{"2O25-01-31T23:59:59Z", ""},
		{"2025-01-31T2x:59:59Z", ""},
	} {
		got, ok := decode.ParseTimestamp(test.in)
		if ok != (test.want != "") || ok && got.String() != test.want {
			t.Errorf("%q: got %v %v, want %q", test.in, got, ok, test.want)
		}
	}
}

// Every moment is read back from what is written, whatever its zone.
func TestParseTimestamp_ReadsWhatIsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		micros := rapid.Int64Range(-62_135_510_400_000_000, 253_402_214_400_000_000-1).Draw(t, "moment")
		minutes := rapid.IntRange(-23*60-59, 23*60+59).Draw(t, "offset in minutes")
		moment := time.UnixMicro(micros)
		for _, s := range []string{
			intake.Timestamp(micros).String(),
			moment.In(time.FixedZone("", minutes*60)).Format(time.RFC3339Nano),
		} {
			if got, ok := decode.ParseTimestamp(s); !ok || int64(got) != micros {
				t.Fatalf("%s: got %d %v, want %d", s, got, ok, micros)
			}
		}
	})
}

func TestTimestamp_NoTimestamp(t *testing.T) {
	if s := intake.NoTimestamp.String(); s != "" {
		t.Errorf("got %q", s)
	}
}

// Package time is the judge, but for what the contract takes beyond RFC 3339 as
// that package reads it.
func FuzzParseTimestamp(f *testing.F) {
	for _, s := range []string{"2025-01-31T23:59:59.999Z", "2024-02-29t00:00:00+05:30", "2025-01-31T23:59:59:999",
		"2016-12-31T23:59:60Z", "0001-01-01T00:00:00.000001-00:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := decode.ParseTimestamp(s)
		if ok {
			if again, ok := decode.ParseTimestamp(got.String()); !ok || again != got {
				t.Fatalf("%q: %v is read as %v", s, got, again)
			}
		}
		if len(s) > 19 && (s[17:19] == "60" || s[19] == ':') {
			return // leap seconds and the reference's spelling: TestParseTimestamp
		}
		want, err := time.Parse(time.RFC3339Nano, withCapitals(s))
		if err == nil && (tooLax(s) || want.UTC().Year() < 1 || want.UTC().Year() > 9999) {
			err = strconv.ErrRange
		}
		if ok != (err == nil) || ok && int64(got) != want.UnixMicro() {
			t.Fatalf("%q: got %v %v, want %v %v", s, got, ok, want, err)
		}
	})
}

// tooLax reports whether a timestamp that time.Parse takes is none of RFC 3339's:
// an hour of one digit, a comma, an offset of 24 hours or 60 minutes.
func tooLax(s string) bool {
	n := len(s)
	return s[12] == ':' || s[19] == ',' || s[n-3] == ':' && (s[n-5:n-3] > "23" || s[n-2:] > "59")
}

// withCapitals returns a timestamp the only letters that package time knows.
func withCapitals(s string) string {
	b := []byte(s)
	if len(b) > 10 && b[10] == 't' {
		b[10] = 'T'
	}
	if n := len(b); n > 0 && b[n-1] == 'z' {
		b[n-1] = 'Z'
	}
	return string(b)
}
