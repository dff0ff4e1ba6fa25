package intake_test

import (
	"strings"
	"testing"

	"intake"
)

func TestValidPartnerName(t *testing.T) {
	for name, want := range map[string]bool{
		"demo": true, "a": true, "0": true, "a-b-2": true, "a-": true, strings.Repeat("a", 63): true,
		"": false, "-a": false, "A": false, "a_b": false, "a.b": false, "a b": false, "é": false, "a\n": false,
		strings.Repeat("a", 64): false,
	} {
		if got := intake.ValidPartnerName(name); got != want {
			t.Errorf("%q: got %v", name, got)
		}
	}
}

func TestValidCurrency(t *testing.T) {
	for code, want := range map[string]bool{
		"GBP": true, "EUR": true, "USD": true, "JPY": true,
		"": false, "gbp": false, "GB": false, "GBPX": false, "AAA": false, "GB1": false, " GBP": false,
	} {
		if got := intake.ValidCurrency(code); got != want {
			t.Errorf("%q: got %v", code, got)
		}
	}
}

func TestValidEntityType(t *testing.T) {
	for name, want := range map[string]bool{
		"SoleTrader": true, "x": true, "Z9": true, strings.Repeat("x", 64): true,
		"": false, "9Z": false, "a b": false, "a-b": false, "a@": false, "a[": false, "é": false,
		strings.Repeat("x", 65): false,
	} {
		if got := intake.ValidEntityType(name); got != want {
			t.Errorf("%q: got %v", name, got)
		}
	}
}
