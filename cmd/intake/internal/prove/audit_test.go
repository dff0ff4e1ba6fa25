package prove

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// Each promise that is broken is noticed, by records or by histories.
func TestAudit(t *testing.T) {
	t.Parallel()
	of := func(variant int, sent, told time.Duration, end end) attempt {
		return attempt{item: item{"k", variant}, client: int(sent), sent: sent, was: told, end: end}
	}
	there := func(variant int) map[string]int { return map[string]int{"k": variant} }
	for name, test := range map[string]struct {
		attempts []attempt
		records  map[string]int
		want     string // "" when all is well
	}{
		"completed, and a duplicate of it":         {[]attempt{of(1, 1, 2, saved), of(1, 3, 4, same), of(2, 5, 6, different)}, there(1), ""},
		"cut off, and there":                       {[]attempt{of(1, 1, 2, unknown), of(1, 3, 4, same)}, there(1), ""},
		"cut off, and not there":                   {[]attempt{of(1, 1, 2, unknown), of(2, 3, 4, saved)}, there(2), ""},
		"refused, then completed":                  {[]attempt{of(1, 1, 2, refused), of(1, 3, 4, saved)}, there(1), ""},
		"two at once":                              {[]attempt{of(1, 1, 5, different), of(2, 2, 4, saved)}, there(2), ""},
		"completed, and missing":                   {[]attempt{of(1, 1, 2, saved)}, nil, "what is there is 0"},
		"completed, with other data":               {[]attempt{of(1, 1, 2, saved)}, there(2), "what is there is 2"},
		"completed twice":                          {[]attempt{of(1, 1, 2, saved), of(1, 3, 4, saved)}, there(1), "was Completed 2 times"},
		"refused, and there":                       {[]attempt{of(1, 1, 2, refused)}, there(1), "nobody was told so"},
		"duplicate of nothing":                     {[]attempt{of(1, 1, 2, same)}, nil, "what is there is 0"},
		"duplicate of the same data, and it isn't": {[]attempt{of(1, 1, 2, saved), of(2, 3, 4, same)}, there(1), "told to be a duplicate, same data"},
		"duplicate before it was sent":             {[]attempt{of(1, 1, 2, same), of(1, 3, 4, saved)}, there(1), "fits no order of events"},
		"duplicate of one that was refused":        {[]attempt{of(1, 1, 2, refused), of(1, 3, 4, same), of(1, 5, 6, unknown)}, there(1), "fits no order of events"},
	} {
		t.Run(name, func(t *testing.T) {
			r := new(Report)
			checkRecords(test.attempts, test.records, r)
			checkHistories(test.attempts, test.records, r)
			got := strings.Join(r.Violations, "\n")
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestReport_HTML(t *testing.T) {
	t.Parallel()
	r := &Report{Seed: 7, Rate: []int{1, 20, 3}, Timeline: []faultSpan{{"kill", "front-1", 0.5, 1.5}}}
	r.violate("<record> %s", "k")
	var page bytes.Buffer
	if err := r.HTML(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1 violations", "&lt;record&gt; k", "front-1: kill, 0.5 s to 1.5 s", `points="0.0,152.0`} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}
