package prove

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// audit compares what was told with what is there, when all is final.
func (l *load) audit(ctx context.Context, r *Report) error {
	r.Requests, r.Batches = l.requests, len(l.batches)
	r.Violations = append(r.Violations, l.wrong...)
	l.measure(r)
	if !l.settle(ctx, r) {
		return nil // nothing can be said of the rest
	}
	if err := l.stack.drain(ctx); err != nil {
		r.violate("the queue is not emptied: %v", err)
		return nil
	}
	records, err := l.records(ctx, r)
	if err != nil {
		return err
	}
	attempts := l.attempts()
	for _, a := range attempts {
		r.Items++
		r.Ends[a.end.String()]++
	}
	r.Records = len(records)
	checkRecords(attempts, records, r)
	checkHistories(attempts, records, r)
	if err := l.repeat(ctx, r); err != nil {
		return err
	}
	if err := l.checkSeen(ctx, records, r); err != nil {
		return err
	}
	if err := l.stack.checkDeadlocks(r); err != nil {
		return err
	}
	if err := l.conserve(ctx, r); err != nil {
		return err
	}
	return l.restore(ctx, r)
}

// measure tells how long nobody was told that something is Completed.
func (l *load) measure(r *Report) {
	slices.Sort(l.completed)
	last := time.Duration(0)
	r.Rate = make([]int, int(time.Since(l.began).Seconds())+1)
	for _, at := range l.completed {
		r.LongestGap = max(r.LongestGap, (at - last).Seconds())
		last = at
		r.Rate[int(at.Seconds())]++
	}
	r.Ends = make(map[string]int)
}

// settle waits until every batch is final, and checks that what was final is so
// still.
func (l *load) settle(ctx context.Context, r *Report) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for n, b := range l.batches {
		if b.id == "" || !b.pending && n%5 > 0 { // of those that were final, some
			continue
		}
		ends, why := l.final(ctx, b)
		if ends == nil {
			r.violate("batch %s does not become final: %s", b.id, why)
			return false
		}
		for i := range ends {
			if b.ends[i] != unknown && b.ends[i] != ends[i] {
				r.violate("batch %s: item %d was %s and is %s", b.id, i, b.ends[i], ends[i])
			}
		}
		if b.pending {
			b.ends, b.told = ends, time.Since(l.began)
		}
	}
	return true
}

// final asks for a batch's status until it is final. If it isn't in time, it says
// what was answered last.
func (l *load) final(ctx context.Context, b *batch) (ends []end, why string) {
	for {
		request, err := l.request(ctx, http.MethodGet, l.stack.direct[0]+"/api/v1/clients/status/"+b.id, nil)
		if err == nil {
			status, text, err := l.do(request)
			if ctx.Err() == nil {
				why = fmt.Sprintf("%d %.200s (%v)", status, text, err)
			}
			if err == nil && status == http.StatusOK {
				if ends, _, pending, err := readEnds(text, b.items); err == nil && !pending {
					return ends, ""
				}
			}
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return nil, why
		}
	}
}

// records gives the variant of each record, having checked its data.
func (l *load) records(ctx context.Context, r *Report) (map[string]int, error) {
	rows, err := l.stack.pool.Query(ctx, "select partner_client_id, claims, total_amount::text from saved_clients where partner = $1", partnerName)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	records := make(map[string]int)
	for rows.Next() {
		var key, amount string
		var claims, variant int
		if err := rows.Scan(&key, &claims, &amount); err != nil {
			return nil, err
		}
		if _, err := fmt.Sscanf(amount, "%d.0001", &variant); err != nil || claims != 1 || amount != fmt.Sprintf("%d.0001", variant) {
			r.violate("record %s has %d claims of %s in all", key, claims, amount)
		}
		if _, twice := records[key]; twice {
			r.violate("record %s is there twice", key)
		}
		records[key] = variant
	}
	return records, rows.Err()
}

func (l *load) attempts() (attempts []attempt) {
	for n, b := range l.batches {
		for i := range b.items {
			attempts = append(attempts, attempt{b.items[i], n, b.sent, b.told, b.ends[i]})
		}
	}
	return attempts
}

// checkRecords checks that all that is Completed is there with its data, and all
// that is there is Completed, or of a request that was cut off.
func checkRecords(attempts []attempt, records map[string]int, r *Report) {
	explained := make(map[string]bool)
	owners := make(map[string]int)
	for _, a := range attempts {
		variant, there := records[a.key]
		switch a.end {
		case saved:
			if owners[a.key]++; owners[a.key] > 1 {
				r.violate("%s was Completed %d times", a.key, owners[a.key])
			}
			if !there || variant != a.variant {
				r.violate("%s was Completed with data %d, and what is there is %d", a.key, a.variant, variant)
			}
			explained[a.key] = true
		case unknown:
			if there && variant == a.variant {
				explained[a.key] = true
			}
		case same, different:
			if !there || (variant == a.variant) != (a.end == same) {
				r.violate("%s with data %d was told to be a %s, and what is there is %d", a.key, a.variant, a.end, variant)
			}
		}
	}
	for key, variant := range records {
		if !explained[key] {
			r.violate("%s is there with data %d, and nobody was told so, or was cut off", key, variant)
		}
	}
}

// checkHistories checks for each key that there is an order of all that was done
// with it, within the time that each took, in which everything told is true: the
// first one creates it, and nobody ever does again.
func checkHistories(attempts []attempt, records map[string]int, r *Report) {
	histories := make(map[string][]porcupine.Operation)
	var last int64
	for _, a := range attempts {
		last = max(last, int64(a.was))
	}
	for _, a := range attempts {
		op := porcupine.Operation{ClientId: a.client, Input: a.variant, Call: int64(a.sent), Output: a.end, Return: int64(a.was)}
		if a.end == unknown {
			op.Return = last + 1 // it may happen at any time
		}
		histories[a.key] = append(histories[a.key], op)
	}
	for key, history := range histories {
		history = append(history, porcupine.Operation{ClientId: -1, Input: 0, Call: last + 2, Output: records[key], Return: last + 3})
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
		case e == unknown, e == refused:
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

// repeat sends each batch that had an Idempotency-Key again: the answer is the
// first one.
func (l *load) repeat(ctx context.Context, r *Report) error {
	for _, b := range l.batches {
		if b.key == "" || !b.answered {
			continue
		}
		r.Keys++
		for {
			status, text, err := l.post(ctx, l.stack.direct[r.Keys%2], b, "wait=5")
			if err == nil && status != http.StatusServiceUnavailable && status != http.StatusConflict {
				if !bytes.Equal(text, b.answer) {
					r.violate("%s is answered %d %.300s, at first %.300s", b.key, status, text, b.answer)
				}
				break
			}
			if !sleep(ctx, 100*time.Millisecond) {
				return fmt.Errorf("%s is not answered again: %d %s (%v)", b.key, status, text, err)
			}
		}
	}
	return nil
}
