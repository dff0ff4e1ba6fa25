package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

// Each promise that is broken is noticed, by records or by histories.
func TestAudit(t *testing.T) {
	t.Parallel()
	of := func(variant int, sent, told time.Duration, end end) attempt {
		return attempt{item: item{key: "k", variant: variant}, batch: "b", client: int(sent), sent: sent, was: told,
			end: end}
	}
	there := func(variant int) map[string]record { return map[string]record{"k": {variant: variant, batch: "b"}} }
	for name, test := range map[string]struct {
		attempts []attempt
		records  map[string]record
		want     string // "" when all is well
	}{
		"completed, and a duplicate of it": {[]attempt{of(1, 1, 2, saved), of(1, 3, 4, same),
			of(2, 5, 6, different)}, there(1), ""},
		"cut off, and there": {[]attempt{of(1, 1, 2, unknown), of(1, 3, 4, same)}, there(1),
			""},
		"cut off, and not there": {[]attempt{of(1, 1, 2, unknown), of(2, 3, 4, saved)}, there(2),
			""},
		"refused, then completed": {[]attempt{of(1, 1, 2, refused), of(1, 3, 4, saved)}, there(1),
			""},
		"two at once": {[]attempt{of(1, 1, 5, different), of(2, 2, 4, saved)},
			there(2), ""},
		"completed, and missing": {[]attempt{of(1, 1, 2, saved)}, nil, "what is there is 0"},
		"completed, with other data": {[]attempt{of(1, 1, 2, saved)}, there(2),
			"what is there is 2"},
		"completed twice": {[]attempt{of(1, 1, 2, saved), of(1, 3, 4, saved)}, there(1),
			"was Completed 2 times"},
		"completed, and of another batch": {[]attempt{of(1, 1, 2, saved)},
			map[string]record{"k": {variant: 1, batch: "c"}}, "item 0 of batch c"},
		"completed, and of another item": {[]attempt{of(1, 1, 2, saved)},
			map[string]record{"k": {1, "b", 7}}, "item 7 of batch b"},
		"cut off, and there, and completed for another": {[]attempt{of(1, 1, 2, unknown), of(1, 3, 4, saved)}, there(1),
			""},
		"refused by Postgres, else a duplicate": {[]attempt{of(1, 1, 2, saved),
			{item: item{key: "k", variant: 1, flaw: unwanted}, sent: 3, was: 4, end: different}}, there(1), ""},
		"failed, and there": {[]attempt{of(1, 1, 2, failed)}, there(1),
			"nobody was told so"},
		"refused, and there": {[]attempt{of(1, 1, 2, refused)}, there(1),
			"nobody was told so"},
		"duplicate of nothing": {[]attempt{of(1, 1, 2, same)}, nil, "what is there is 0"},
		"duplicate of the same data, and it isn't": {[]attempt{of(1, 1, 2, saved), of(2, 3, 4, same)}, there(1),
			"told to be a duplicate, same data"},
		"duplicate before it was sent": {[]attempt{of(1, 1, 2, same), of(1, 3, 4, saved)}, there(1),
			"fits no order of events"},
		"duplicate of one that was refused": {[]attempt{of(1, 1, 2, refused), of(1, 3, 4, same),
			of(1, 5, 6, unknown)}, there(1), "fits no order of events"},
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

// What a batch alone decides is known from its items, and an answer that says
// something else is noticed.
func TestReadEnds(t *testing.T) {
	t.Parallel()
	a, b := item{key: "a", variant: 1}, item{key: "b", variant: 2}
	other, spoilt, unasked := item{key: "a", variant: 2}, item{key: "b", variant: 2, flaw: invalid},
		item{key: "b", variant: 2, flaw: unwanted}
	const (
		completed = `"state":"Completed","code":"saved","validation_errors":""`
		pending   = `"state":"Pending","code":"pending","validation_errors":""`
		duplicate = `"state":"Duplicate","code":"duplicate_of_saved","validation_errors":"already saved with the same data"`
		again     = `"state":"Duplicate","code":"duplicate_in_request","validation_errors":"duplicate of item 0 in this request"`
		conflicts = `"state":"Conflict","code":"conflict_in_request","validation_errors":"conflict: items 0 and 1 share partner_client_id \"a\" but their data differs"`
		isInvalid = `"state":"Failed","code":"invalid","validation_errors":"entity_type: must be letters and digits"`
		isRefused = `"state":"Failed","code":"refused","validation_errors":"refused"`
	)
	for name, test := range map[string]struct {
		items  []item
		status string
		states []string
		want   []end // nil when it is wrong
	}{
		"saved": {[]item{a, b}, "Completed", []string{completed, duplicate},
			[]end{saved, same}},
		"pending": {[]item{a, b}, "Pending", []string{completed, pending},
			[]end{saved, unknown}},
		"the same twice": {[]item{a, a, b}, "Completed", []string{completed, again, completed},
			[]end{saved, repeated, saved}},
		"conflict": {[]item{a, other}, "Completed", []string{conflicts, conflicts},
			[]end{conflict, conflict}},
		"invalid": {[]item{a, spoilt}, "Completed", []string{completed, isInvalid},
			[]end{saved, failed}},
		"refused by Postgres": {[]item{a, unasked}, "Completed", []string{completed, isRefused},
			[]end{saved, declined}},
		"the same twice, both saved":     {[]item{a, a}, "Completed", []string{completed, completed}, nil},
		"conflict, one saved":            {[]item{a, other}, "Completed", []string{completed, conflicts}, nil},
		"invalid, and saved":             {[]item{a, spoilt}, "Completed", []string{completed, completed}, nil},
		"refused by Postgres, and saved": {[]item{a, unasked}, "Completed", []string{completed, completed}, nil},
		"refused for nothing":            {[]item{a, b}, "Completed", []string{completed, isRefused}, nil},
		"completed, and pending":         {[]item{a, b}, "Completed", []string{completed, pending}, nil},
		"an item too few":                {[]item{a, b}, "Completed", []string{completed}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var results []string
			for i, state := range test.states {
				results = append(results, `{"data":`+test.items[i].text()+`,"status":{`+state+`}}`)
			}
			ends, _, _, err := readEnds([]byte(`{"status_check_id":"i","status":"`+test.status+`","result":[`+
				strings.Join(results, ",")+`]}`), test.items)
			if (err == nil) != (test.want != nil) || err == nil && !slices.Equal(ends, test.want) {
				t.Errorf("%v (%v), want %v", ends, err, test.want)
			}
		})
	}
}

// The page has the violations, escaped, round ticks, and a labelled row for each
// place and kind of fault.
func TestReport_HTML(t *testing.T) {
	t.Parallel()
	r := &Report{
		Seed: 7, Requests: 12_345, Rate: []int{1, 18, 3}, Ends: map[string]int{unknown.String(): 2_423},
		Timeline: []faultSpan{{"stop", "front-1", 2, 3}, {"kill", "front-1", 0.5, 1.5}, {"kill", "front-1", 2, 2.5}},
	}
	r.violate("<record> %s", "k")
	var page bytes.Buffer
	if err := r.HTML(&page); err != nil {
		t.Fatal(err)
	}
	for want, times := range map[string]int{
		"1 violation<": 1, "&lt;record&gt; k": 1, "12,345 requests": 1, "2,423": 1, "the connection was cut": 1,
		"front-1: kill, 0.5 s to 1.5 s": 1, ">front-1: kill<": 1, ">front-1: stop<": 1, "<rect": 3,
		">20<": 1, ">3 s<": 1, `points="0.0,152.0 `: 1,
	} {
		if n := strings.Count(page.String(), want); n != times {
			t.Errorf("the page has %q %d times, want %d:\n%s", want, n, times, &page)
		}
	}
}

// Faults are printed in the order in which they began, though they end in another.
func TestNemesis_Order(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	n := newNemesis(nil, &Report{Faults: make(map[string]int)}, &out)
	for _, at := range []time.Duration{1, 2} {
		n.began(at * time.Second)
	}
	n.note(fault{kind: "kill", where: "b"}, 2*time.Second, 3*time.Second, nil, nil)
	n.began(4 * time.Second)
	n.note(fault{kind: "stop", where: "a"}, 1*time.Second, 5*time.Second, nil, nil)
	n.note(fault{kind: "cut", where: "c"}, 4*time.Second, 6*time.Second, nil, nil)
	const want = "   1.0 s  stop     a, for 4.0 s\n   2.0 s  kill     b, for 1.0 s\n   4.0 s  cut      c, for 2.0 s\n"
	if out.String() != want {
		t.Errorf("printed\n%swant\n%s", &out, want)
	}
}
