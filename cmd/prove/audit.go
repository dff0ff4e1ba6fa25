package main

import (
	"context"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"intake"
)

// audit compares the answers with the records, when all batches are final. All faults
// are over, so an audit that can't go on is a violation, too.
func (l *load) audit(ctx context.Context, r *Report) {
	l.measure(r)
	defer func() {
		r.Requests, r.Batches, r.Watched, r.Waited, r.Twins = l.requests, len(l.batches), l.watched, l.waited, l.twins
		r.Violations = append(r.Violations, l.wrong...)
	}()
	var records map[string]record
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"every kind of client is served", func() error { return l.checkAdmission(ctx, r, "the faults") }},
		{"overload", func() error { return l.overload(ctx, r) }},
		{"all becomes final", func() error { return l.settle(ctx, r) }},
		{"all is acknowledged", func() error { return l.stack.waitAcknowledged(ctx) }},
		{"all is counted", func() error { return l.conserve(ctx, r) }},
		{"records and histories", func() (err error) {
			records, err = l.checkAll(ctx, r)
			return err
		}},
		{"Idempotency-Keys", func() error { return l.repeat(ctx, r) }},
		{"the seen set", func() error { return l.checkSeen(ctx, records, r) }},
		{"deadlocks", func() error { return l.stack.checkDeadlocks(r) }},
		{"Postgres put back", func() error { return l.restore(ctx, r, records) }},
	} {
		if err := step.do(); err != nil {
			r.violate("the audit, after all faults, ends at %q: %v", step.what, err)
			return
		}
	}
}

// checkAll compares all answers with the records, and checks each key's history.
func (l *load) checkAll(ctx context.Context, r *Report) (map[string]record, error) {
	records, err := l.records(ctx, r)
	if err != nil {
		return nil, err
	}
	attempts := l.attempts()
	r.Ends = make(map[string]int)
	for _, a := range attempts {
		r.Ends[a.end.String()]++
	}
	r.Items, r.Records = len(attempts), len(records)
	checkRecords(attempts, records, r)
	checkHistories(attempts, records, r)
	return records, nil
}

// measure counts the Completed items of each second, and finds the longest gap.
func (l *load) measure(r *Report) {
	slices.Sort(l.completed)
	last := time.Duration(0)
	r.Rate = make([]int, int(time.Since(l.began).Seconds())+1)
	for _, at := range l.completed {
		r.LongestGap = max(r.LongestGap, (at - last).Seconds())
		last = at
		r.Rate[int(at.Seconds())]++
	}
}

// A record is a saved record of Postgres.
type record struct {
	variant  int    // which of its data
	batch    string // where it came from
	position int
}

// records reads all records, and checks that each has the data of a variant.
func (l *load) records(ctx context.Context, r *Report) (map[string]record, error) {
	rows, err := l.stack.pool.Query(ctx, recordSQL, partnerName)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	records := make(map[string]record)
	for rows.Next() {
		var key, data string
		var is record
		if err := rows.Scan(&key, &is.batch, &is.position, &data); err != nil {
			return nil, err
		}
		for variant := 1; variant <= variants; variant++ {
			if data == (item{key: key, variant: variant}).record() {
				is.variant = variant
			}
		}
		if is.variant == 0 {
			r.violate("record %s holds %.500s", key, data)
		}
		if _, twice := records[key]; twice {
			r.violate("record %s is there twice", key)
		}
		records[key] = is
	}
	return records, rows.Err()
}

// attempts returns all items that were sent.
func (l *load) attempts() (attempts []attempt) {
	for n, b := range l.batches {
		verdicts := decided(b.items)
		for i, it := range b.items {
			a := attempt{item: it, position: i, batch: b.id, client: n, sent: b.sent, was: b.told, end: b.ends[i]}
			// Without an answer, these are known not to be saved.
			if a.end == unknown && (verdicts[i].Code != intake.CodePending || it.flaw == unwanted) {
				a.end = refused
			}
			attempts = append(attempts, a)
		}
	}
	return attempts
}

// checkRecords checks that each Completed item has a record with its data that comes
// from this very item, and that each record is of a Completed item, or of a request
// without an answer.
func checkRecords(attempts []attempt, records map[string]record, r *Report) {
	explained := make(map[string]bool)
	owners := make(map[string]int)
	for _, a := range attempts {
		is, there := records[a.key]
		switch a.end {
		case saved:
			if owners[a.key]++; owners[a.key] > 1 {
				r.violate("%s was Completed %d times", a.key, owners[a.key])
			}
			if !there || is.variant != a.data() {
				r.violate("%s was Completed with data %d, and what is there is %d", a.key, a.data(), is.variant)
			} else if is.batch != a.batch || is.position != a.position {
				r.violate("%s was Completed as item %d of batch %s, and what is there is item %d of batch %s", a.key,
					a.position, a.batch, is.position, is.batch)
			}
			explained[a.key] = true
		case unknown:
			if there && is.variant == a.data() {
				explained[a.key] = true
			}
		case same, different:
			if !there || (is.variant == a.data()) != (a.end == same) {
				r.violate("%s with data %d was told to be a %s, and what is there is %d", a.key, a.data(), a.end,
					is.variant)
			}
		}
	}
	for key, is := range records {
		if !explained[key] {
			r.violate("%s is there with data %d, and nobody was told so, or was cut off", key, is.variant)
		}
	}
}

// checkHistories checks that each key's history is linearizable: there is an order of
// its requests, each at a moment between its sending and its answer, in which all
// answers are true. The first one creates the key, and no other one does.
func checkHistories(attempts []attempt, records map[string]record, r *Report) {
	histories, created := make(map[string][]porcupine.Operation), make(map[string]bool)
	var last int64
	for _, a := range attempts {
		last = max(last, int64(a.was))
		created[a.key] = created[a.key] || a.end == saved
	}
	for _, a := range attempts {
		op := porcupine.Operation{ClientId: a.client, Input: a.data(), Call: int64(a.sent), Output: a.end,
			Return: int64(a.was)}
		switch a.end {
		case saved, same, different:
		case unknown:
			// It may have been saved at any time. It was not if another item was
			// answered Completed, or if the record has other data.
			if created[a.key] || records[a.key].variant != a.data() {
				continue
			}
			op.Return = last + 1
		default:
			continue // it neither created the key nor looked at it
		}
		histories[a.key] = append(histories[a.key], op)
	}
	for key, history := range histories {
		history = append(history, porcupine.Operation{ClientId: -1, Input: 0, Call: last + 2,
			Output: records[key].variant, Return: last + 3})
		switch porcupine.CheckOperationsTimeout(createOnce, history, 10*time.Second) {
		case porcupine.Illegal:
			r.violate("what was told of %s fits no order of events", key)
		case porcupine.Unknown:
			r.Unchecked++
		}
		r.Histories++
	}
}

// createOnce is a key: a state is the variant that it was created with, 0 before.
// An input is the variant to create it with, or 0 to look at it.
var createOnce = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{0} },
	Step: func(state, input, output any) []any {
		is, variant := state.(int), input.(int)
		if variant == 0 {
			if output.(int) == is {
				return []any{is}
			}
			return nil
		}
		switch e := output.(end); {
		case e == unknown && is == 0:
			return []any{0, variant}
		case e == unknown:
			return []any{is}
		case e == saved && is == 0:
			return []any{variant}
		case e == same && is == variant, e == different && is != 0 && is != variant:
			return []any{is}
		}
		return nil
	},
	Equal: func(a, b any) bool { return a == b },
}).ToModel()
