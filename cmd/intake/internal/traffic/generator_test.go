package traffic_test

import (
	"bytes"
	"encoding/json"
	"math"
	"testing"
	"time"

	"go.uber.org/goleak"

	"intake"
	"intake/cmd/intake/internal/traffic"
	"intake/dedupe"
	"intake/internal/decode"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newGenerator(t testing.TB, opts traffic.GeneratorOptions) *traffic.Generator {
	t.Helper()
	g, err := traffic.NewGenerator(opts)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// The shares of what is generated are those that were asked for, as the contract
// judges them, and the same seed gives the same batches.
func TestGenerator(t *testing.T) {
	opts := traffic.GeneratorOptions{Seed: 7, BatchItems: 2_000, Claims: 3, Duplicates: 0.1, Conflicts: 0.05,
		Invalid: 0.04, SavedBefore: 0.2}
	g, again := newGenerator(t, opts), newGenerator(t, opts)
	partner := &intake.Partner{ID: 1, Name: "acme", Currency: "GBP"}
	counts := make(map[intake.Code]int)
	saved := make(map[string]bool)
	const batches = 10
	for range batches {
		batch := g.AppendBatch(nil)
		if !bytes.Equal(batch, again.AppendBatch(nil)) {
			t.Fatal("the same seed gave another batch")
		}
		items, err := decode.Batch(batch, partner, time.Now())
		if err != nil || len(items) != opts.BatchItems {
			t.Fatal(len(items), err)
		}
		verdicts := make([]intake.Verdict, len(items))
		dedupe.InBatch(items, verdicts)
		for i, v := range verdicts {
			switch {
			case v.Code == intake.CodePending && saved[items[i].Key]:
				counts[intake.CodeDuplicateOfSaved]++
			case v.Code == intake.CodePending && len(items[i].Client.Claims) != opts.Claims:
				t.Fatalf("%d claims", len(items[i].Client.Claims))
			default:
				counts[v.Code]++
			}
		}
		for i, v := range verdicts {
			if v.Code == intake.CodePending {
				saved[items[i].Key] = true
			}
		}
	}
	// An item can only repeat one before that nothing else repeats, and an
	// earlier batch must be there; a conflict makes two.
	for code, want := range map[intake.Code]float64{
		intake.CodeDuplicateInRequest: opts.Duplicates, intake.CodeConflictInRequest: 2 * opts.Conflicts,
		intake.CodeInvalid: opts.Invalid, intake.CodeDuplicateOfSaved: opts.SavedBefore,
	} {
		if got := float64(counts[code]) / (batches * 2_000); math.Abs(got-want) > 0.5*want {
			t.Errorf("%s: %.3f of the items, want about %.3f", code, got, want)
		}
	}
}

func TestGenerator_Daily(t *testing.T) {
	g := newGenerator(t, traffic.GeneratorOptions{BatchItems: 3, Claims: 365, Daily: true, Currency: "EUR"})
	items, err := decode.Batch(g.AppendBatch(nil), &intake.Partner{Currency: "EUR"}, time.Now())
	if err != nil || items[0].Errors != "" || len(items[0].Client.Claims) != 365 ||
		items[0].Client.Claims[364].Period != intake.Daily {
		t.Fatalf("%+v %v", items, err)
	}
}

// Invalid items are invalid in many ways, with claims and without.
func TestGenerator_Invalid(t *testing.T) {
	for claims, want := range map[int]int{-1: 5, 2: 10} {
		g := newGenerator(t, traffic.GeneratorOptions{BatchItems: 500, Claims: claims, Invalid: 1})
		items, err := decode.Batch(g.AppendBatch(nil), &intake.Partner{Currency: "GBP"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		kinds := make(map[string]bool)
		for i, item := range items {
			if item.Errors == "" {
				t.Errorf("item %d is valid", i)
			}
			kinds[item.Errors] = true
		}
		if len(kinds) < want {
			t.Errorf("%d claims an item: %d kinds of errors, want %d: %v", claims, len(kinds), want, kinds)
		}
	}
}

func TestGenerator_BadOptions(t *testing.T) {
	for _, opts := range []traffic.GeneratorOptions{{BatchItems: 10_001}, {Claims: 1_001},
		{Invalid: 0.6, Conflicts: 0.6}, {Duplicates: -1}} {
		if _, err := traffic.NewGenerator(opts); err == nil {
			t.Errorf("%+v: no error", opts)
		}
	}
}

// Fresh keys are other keys, in each round, and nothing else changes.
func TestTemplate(t *testing.T) {
	body := []byte(`[{"partner_client_id" : "a","entity_type":"A"},{"entity_type":"B","partner_client_id":"","x":"\"partner_client_id\":\"no\""},{"partner_client_id":"a"},5]`)
	template := traffic.NewTemplate(body)
	if got := template.Append(nil, 0); !bytes.Equal(got, body) {
		t.Errorf("round 0 changed the batch: %s", got)
	}
	ids := func(round int) (ids []string) {
		var items []json.RawMessage
		if err := json.Unmarshal(template.Append(nil, round), &items); err != nil || len(items) != 4 {
			t.Fatal(items, err)
		}
		for _, item := range items[:3] {
			var one struct {
				ID string `json:"partner_client_id"`
			}
			if err := json.Unmarshal(item, &one); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, one.ID)
		}
		return ids
	}
	one, two := ids(1), ids(2)
	if one[0] == "a" || one[0] != one[2] || one[0] == two[0] || one[1] != "" {
		t.Errorf("keys %q, then %q", one, two)
	}
}

func BenchmarkGenerator(b *testing.B) {
	g := newGenerator(b, traffic.GeneratorOptions{})
	var batch []byte
	for b.Loop() {
		batch = g.AppendBatch(batch[:0])
		b.SetBytes(int64(len(batch)))
	}
}
