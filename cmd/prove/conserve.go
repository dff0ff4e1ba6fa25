package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"time"

	"intake"
	"intake/internal/scrape"
	"intake/internal/sleep"
)

// conserve checks that the metrics agree: each front counts the items that were sent to
// it, with the states that it answered, and the workers count those that were saved. A
// batch that is refused or redelivered is counted differently; then it tries again.
func (l *load) conserve(ctx context.Context, r *Report) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	const tries = 3
	for try := 1; ; try++ {
		different, err := l.compareCounts(ctx, r, try)
		if err != nil || different == "" {
			return err
		}
		if try == tries {
			r.violate("%s, in each of %d tries", different, tries)
			return nil
		}
	}
}

// compareCounts sends batches, and says how the metrics differ from the answers; ""
// if they agree.
func (l *load) compareCounts(ctx context.Context, r *Report, try int) (different string, err error) {
	before, err := l.stack.balanced(ctx, r)
	if err != nil {
		return "", err
	}
	want := maps.Clone(before)
	const batches = 60
	random := rand.New(rand.NewPCG(l.seed, 7))
	items, saves, asked := 0, 0, l.countRequests()
	for n := range batches {
		b := l.newBatch(l.draw(random, loadClients, try*batches+n))
		_, text, err := l.postUntilAnswered(ctx, l.stack.direct[n%2], b)
		if err != nil {
			return "", err
		}
		b.told = time.Since(l.began)
		l.read(b, text)
		l.keep(b)
		if b.pending {
			return "a batch is not saved within 30 s", l.waitFinal(ctx, n, b)
		}
		name := fmt.Sprintf("front-%d", n%2+1)
		want[name] = maps.Clone(want[name])
		want[name]["received"] += len(b.items)
		for _, e := range b.ends {
			want[name][codes[e].String()]++
			if e == saved {
				saves++
			}
		}
		items += len(b.items)
	}
	after, err := l.stack.counts(ctx)
	if err != nil {
		return "", err
	}
	if l.countRequests()-asked != batches {
		return "batches were refused at first", nil
	}
	workers := 0
	for name, count := range after {
		if strings.HasPrefix(name, "worker") {
			workers += count[intake.CodeSaved.String()] - before[name][intake.CodeSaved.String()]
			continue
		}
		if !maps.Equal(count, want[name]) {
			return fmt.Sprintf("%s counts %v, and its answers add up to %v", name, count, want[name]), nil
		}
	}
	if workers != saves {
		return fmt.Sprintf("the workers count %d items as saved, %d were Completed", workers, saves), nil
	}
	r.Conserved = items
	return "", nil
}

// codes are the labels by which a front counts items.
var codes = map[end]intake.Code{
	saved: intake.CodeSaved, same: intake.CodeDuplicateOfSaved, different: intake.CodeDuplicateOfSaved,
	repeated: intake.CodeDuplicateInRequest, conflict: intake.CodeConflictInRequest, failed: intake.CodeInvalid,
	declined: intake.CodeRefused,
}

// A tally is how many items a process counts, by code. A front's also has the items
// without a state, by the reason, and those received.
type tally map[string]int

// all returns the sum of all but received.
func (t tally) all() (n int) {
	for name, count := range t {
		if name != "received" {
			n += count
		}
	}
	return n
}

// balanced reads the metrics when each front has counted the outcome of all items that
// it has received. After a request that was cut off that may take a while.
func (s *stack) balanced(ctx context.Context, r *Report) (counts map[string]tally, err error) {
	waiting, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	for {
		if counts, err = s.counts(ctx); err != nil {
			return nil, err
		}
		var unbalanced []string
		for name, count := range counts {
			if all := count.all(); strings.HasPrefix(name, "front") && count["received"] != all {
				unbalanced = append(unbalanced, fmt.Sprintf("%s has received %d items and counts the outcome of %d",
					name, count["received"], all))
			}
		}
		if len(unbalanced) == 0 {
			return counts, nil
		}
		if !sleep.For(waiting, 100*time.Millisecond) {
			r.Violations = append(r.Violations, unbalanced...)
			return counts, nil
		}
	}
}

// counts reads the metrics of the fronts and workers.
func (s *stack) counts(ctx context.Context) (map[string]tally, error) {
	counts := make(map[string]tally)
	for _, p := range s.parts {
		if p.ready == "" {
			continue
		}
		families, err := scrape.Metrics(ctx, strings.TrimSuffix(p.ready, "/readyz")+"/metrics")
		if err != nil {
			return nil, fmt.Errorf("read the metrics of %s: %w", p.name, err)
		}
		count := make(tally)
		for _, name := range []string{"intake_front_items_total", "intake_front_items_stateless_total",
			"intake_worker_items_total"} {
			for _, metric := range families[name].GetMetric() {
				count[metric.Label[0].GetValue()] += int(metric.Counter.GetValue())
			}
		}
		for _, metric := range families["intake_front_items_received_total"].GetMetric() {
			count["received"] = int(metric.Counter.GetValue())
		}
		counts[p.name] = count
	}
	return counts, nil
}
