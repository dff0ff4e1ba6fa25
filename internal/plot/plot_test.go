package plot_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"intake/internal/plot"
)

func TestTicks(t *testing.T) {
	for _, test := range []struct {
		top  float64
		want []float64
	}{
		{0, []float64{0, 1}},
		{1, []float64{0, 0.2, 0.4, 0.6, 0.8, 1}},
		{30, []float64{0, 10, 20, 30}},
		{32_419, []float64{0, 10_000, 20_000, 30_000, 40_000}},
		{1_371, []float64{0, 500, 1_000, 1_500}},
	} {
		if diff := cmp.Diff(test.want, plot.Ticks(test.top, 5), cmpopts.EquateApprox(1e-9, 0)); diff != "" {
			t.Errorf("to %v: wanted (-), got (+):\n%s", test.top, diff)
		}
	}
}

func TestLogTicks(t *testing.T) {
	for _, test := range []struct {
		low, high float64
		want      []float64
	}{
		{186, 1_371, []float64{100, 200, 500, 1_000, 2_000}},
		{1, 1, []float64{1, 2}},
		{0.03, 40_000, []float64{0.01, 0.1, 1, 10, 100, 1_000, 10_000, 100_000}},
	} {
		if diff := cmp.Diff(test.want, plot.LogTicks(test.low, test.high), cmpopts.EquateApprox(1e-9, 0)); diff != "" {
			t.Errorf("%v to %v: wanted (-), got (+):\n%s", test.low, test.high, diff)
		}
	}
}

func TestNumber(t *testing.T) {
	for number, want := range map[float64]string{
		0: "0", 0.25: "0.25", 7: "7", 7.5: "7.5", 12.4: "12", 999: "999", 1_000: "1,000", 939_049: "939,049",
		-1_234_567: "-1,234,567",
	} {
		if got := plot.Number(number); got != want {
			t.Errorf("%v is %s, want %s", number, got, want)
		}
	}
}
