package intake_test

import (
	"testing"

	"intake"
)

func TestAmount_String(t *testing.T) {
	for _, test := range []struct {
		amount intake.Amount
		want   string
	}{
		{intake.Amount{}, "0"},
		{intake.Amount{Abs: 1}, "0.0001"},
		{intake.Amount{Neg: true, Abs: 15_000}, "-1.5"},
		{intake.Amount{Abs: 300_002_500}, "30000.25"},
		{intake.Amount{Neg: true, Abs: 9_999_999_999_999_999_999}, "-999999999999999.9999"},
	} {
		if got := test.amount.String(); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}
