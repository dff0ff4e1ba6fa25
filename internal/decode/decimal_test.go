package decode_test

import (
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"intake/internal/decode"
)

var anyNumber = rapid.StringMatching(`-?(0|[1-9][0-9]{0,17}|10{9,20})(\.[0-9]{1,6}|\.0{0,9}[0-9]0{0,20})?([eE][+-]?0{0,2}1?[0-9])?`)

// The value of a number decides, exactly, and not its spelling: big.Rat is the judge.
func TestAmount_IsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := anyNumber.Draw(t, "total_amount")
		value, _ := new(big.Rat).SetString(text)
		units := new(big.Rat).Mul(value, big.NewRat(10_000, 1))
		fits := units.IsInt() && len(strings.TrimLeft(units.Num().String(), "-")) <= 19

		items, err := decode.Batch([]byte("["+claiming(claim("total_amount", text, "transaction_count", "0"))+"]"), gbp,
			now)
		if err != nil {
			t.Fatal(err)
		}
		if fits != (items[0].Errors == "") {
			t.Fatalf("%s: %q", text, items[0].Errors)
		}
		if !fits {
			return
		}
		amount := items[0].Client.Claims[0].TotalAmount
		if got, _ := new(big.Rat).SetString(amount.String()); got.Cmp(value) != 0 || amount.Neg != (value.Sign() < 0) {
			t.Fatalf("%s: got %+v", text, amount)
		}
	})
}

func TestTransactionCount_IsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := anyNumber.Draw(t, "transaction_count")
		value, _ := new(big.Rat).SetString(text)
		want := "revenue_claims[0].transaction_count: "
		switch limit := big.NewRat(1_000_000_000_000, 1); {
		case !value.IsInt():
			want += "must be a whole number"
		case new(big.Rat).Abs(value).Cmp(limit) > 0:
			want += "must be within ±1,000,000,000,000"
		default:
			want = ""
		}
		items, err := decode.Batch([]byte("["+claiming(claim("total_amount", "0", "transaction_count", text))+"]"), gbp,
			now)
		if err != nil || items[0].Errors != want {
			t.Fatalf("%s: %v, %q, want %q", text, err, items[0].Errors, want)
		}
		if want == "" && value.Cmp(big.NewRat(items[0].Client.Claims[0].TransactionCount, 1)) != 0 {
			t.Fatalf("%s: got %d", text, items[0].Client.Claims[0].TransactionCount)
		}
	})
}

// The sign of one number binds the other, unless one is zero.
func TestTransactionCount_Sign(t *testing.T) {
	for _, amount := range []string{"-1.5", "-0", "0.00", "1.5"} {
		for _, count := range []string{"-1", "0", "-0.0", "1"} {
			a, _ := new(big.Rat).SetString(amount)
			c, _ := new(big.Rat).SetString(count)
			got := decodeOne(t, gbp, claiming(claim("total_amount", amount, "transaction_count", count))).Errors
			if (got == "") != (a.Sign()*c.Sign() >= 0) {
				t.Errorf("%s and %s: %q", amount, count, got)
			}
		}
	}
}

// Numbers of a body's size are refused in a moment, or taken if their value is small.
func TestAmount_Huge(t *testing.T) {
	const n = 4 << 20
	for _, test := range []struct {
		number string
		valid  bool
	}{
		{"1e400000000", false},
		{"1e" + strings.Repeat("9", n), false},
		{strings.Repeat("9", n), false},
		{"1." + strings.Repeat("0", n), true},
		{"0." + strings.Repeat("0", n-1) + "1e4194304", true},
		{"1" + strings.Repeat("0", n) + "e-4194304", true},
		{"0e" + strings.Repeat("9", n), true},
	} {
		got := decodeOne(t, gbp, claiming(claim("total_amount", test.number))).Errors
		if (got == "") != test.valid {
			t.Errorf("%.20s… (%d bytes): %q", test.number, len(test.number), got)
		}
	}
}
