package main

import "testing"

func TestParseCell(t *testing.T) {
	for name, want := range map[string]cell{
		"1x12@64":               {shape: shape{1, 12, false}, Concurrency: 64},
		"1000x12@16+saved":      {shape: thousand, Concurrency: 16, Saved: true},
		"100x365@4+daily+mixed": {shape: shape{100, 365, true}, Concurrency: 4, Mixed: true},
		"1x12@1+echo+async":     {shape: shape{1, 12, false}, Concurrency: 1, Echo: true, Async: true},
	} {
		got, err := parseCell(name)
		if err != nil || got != want {
			t.Errorf("%s is %+v (%v), want %+v", name, got, err, want)
		}
		if got.String() != name {
			t.Errorf("%s prints as %s", name, got)
		}
	}
	for _, name := range []string{"", "1x12", "1x12@", "0x12@1", "1x12@0", "1x12@1+", "1x12@1+late", "1x12@1+saved+"} {
		if c, err := parseCell(name); err == nil {
			t.Errorf("%q is %+v, want an error", name, c)
		}
	}
}

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   spread
	}{
		{nil, spread{}},
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{5, 1}, spread{3, 1, 5}},
		{[]float64{9, 1, 4}, spread{4, 1, 9}},
	} {
		if got := spreadOf(test.values); got != test.want {
			t.Errorf("the spread of %v is %v, want %v", test.values, got, test.want)
		}
	}
}

// A ratio is of one round: the machine may be slower in another one.
func TestResult_Ratio(t *testing.T) {
	r := result{Rounds: []map[string]*measurement{
		{"a": {Items: 100}, "b": {Items: 200}}, {"a": {Items: 10}, "b": {Items: 20}},
		{"a": {Items: 1}, "b": {Items: 2}},
	}}
	if got, want := r.ratio("b", "a", itemsOf), (spread{2, 2, 2}); got != want {
		t.Errorf("the ratio is %v, want %v", got, want)
	}
}
