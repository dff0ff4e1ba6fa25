package dedupe_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"intake"
	"intake/dedupe"
	"intake/internal/decode"
)

var (
	acme = &intake.Partner{ID: 1, Name: "acme", Currency: "GBP"}
	now  = time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC)
)

// judged returns the verdicts on a body's items after the in-batch checks.
func judged(t testing.TB, body string) []intake.Verdict {
	t.Helper()
	items, err := decode.Batch([]byte(body), acme, now)
	if err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	verdicts := make([]intake.Verdict, len(items))
	dedupe.InBatch(items, verdicts)
	return verdicts
}

func TestInBatch(t *testing.T) {
	const (
		a        = `{"partner_client_id":"A","entity_type":"X"}`
		aAgain   = ` { "entity_type" : "\u0058", "partner_client_id" : "\u0041" } `
		aOther   = `{"partner_client_id":"A","entity_type":"Y"}`
		b        = `{"partner_client_id":"B","entity_type":"X"}`
		bInvalid = `{"partner_client_id":"B","entity_type":5}`
		five     = `{"entity_type":"X"}`
		fiveSays = "partner_client_id: required"
		bSays    = "entity_type: must be a string, not a number"
	)
	pending := intake.Verdict{}
	conflict := func(key string, items ...int) intake.Verdict { return intake.ConflictInRequest(items, key) }
	for _, test := range []struct {
		name  string
		items []string
		want  []intake.Verdict
	}{
		{"no key twice: all go on", []string{a, b}, []intake.Verdict{pending, pending}},
		{"the first of equal items goes on", []string{a, b, aAgain, a}, []intake.Verdict{
			pending, pending, intake.DuplicateInRequest(0), intake.DuplicateInRequest(0)}},
		{"different data: nobody goes on", []string{a, aOther}, []intake.Verdict{conflict("A", 0, 1),
			conflict("A", 0, 1)}},
		{"one that differs is enough, wherever it is", []string{a, b, a, aAgain, aOther}, []intake.Verdict{
			conflict("A", 0, 2, 3, 4), pending, conflict("A", 0, 2, 3, 4), conflict("A", 0, 2, 3, 4),
			conflict("A", 0, 2, 3, 4)}},
		{"conflict goes before invalid", []string{bInvalid, b}, []intake.Verdict{conflict("B", 0, 1),
			conflict("B", 0, 1)}},
		{"duplicate goes before invalid, whatever becomes of the first", []string{bInvalid, bInvalid + " "},
			[]intake.Verdict{
				intake.Invalid(bSays), intake.DuplicateInRequest(0)}},
		{"left out and null are different values",
			[]string{b, `{"partner_client_id":"B","entity_type":"X","revenue_claims":null}`}, []intake.Verdict{
				conflict("B", 0, 1), conflict("B", 0, 1)}},
		{"the order of an array counts", []string{
			`{"partner_client_id":"B","entity_type":"X","other_identifiers":[{"key":"k","values":["1","2"]}]}`,
			`{"partner_client_id":"B","entity_type":"X","other_identifiers":[{"key":"k","values":["2","1"]}]}`},
			[]intake.Verdict{
				conflict("B", 0, 1), conflict("B", 0, 1)}},
		{"without a usable key there is no group", []string{five, five, "7", "7",
			`{"partner_client_id":"A","partner_client_id":"A","entity_type":"X"}`, a}, []intake.Verdict{
			intake.Invalid(fiveSays), intake.Invalid(fiveSays),
			intake.Invalid("item: must be a JSON object, not a number"),
			intake.Invalid("item: must be a JSON object, not a number"),
			intake.Invalid("partner_client_id: given more than once"), pending}},
		{"keys are compared exactly", []string{a, `{"partner_client_id":"a","entity_type":"Y"}`,
			`{"partner_client_id":"A ","entity_type":"Y"}`}, []intake.Verdict{
			pending, pending, pending}},
		{"numbers that no float can tell apart are different", []string{claiming("A", "100000000000000.0001"),
			claiming("A", "100000000000000.0002")},
			[]intake.Verdict{conflict("A", 0, 1), conflict("A", 0, 1)}},
		{"numbers of one value are the same", []string{claiming("A", "15"), claiming("A", "1.5e1"),
			claiming("A", "15.000")},
			[]intake.Verdict{pending, intake.DuplicateInRequest(0), intake.DuplicateInRequest(0)}},
		{"groups are apart", []string{a, b, aOther, b}, []intake.Verdict{
			conflict("A", 0, 2), pending, conflict("A", 0, 2), intake.DuplicateInRequest(1)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, judged(t, "["+strings.Join(test.items, ",")+"]")); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func claiming(id, amount string) string {
	return fmt.Sprintf(`{"partner_client_id":%q,"entity_type":"X","revenue_claims":[{"start_date":"2025-02-01T00:00:00.000Z","end_date":"2025-02-28T23:59:59.999Z",`+
		`"time_period":"Monthly","currency":"GBP","total_amount":%s,"transaction_count":1}]}`, id, amount)
}

// The texts as partners read them.
func TestInBatch_Texts(t *testing.T) {
	verdicts := judged(t, `[{"partner_client_id":"a\"b","entity_type":"X"},5,{"partner_client_id":"C","entity_type":"X"},`+
		`{"partner_client_id":"a\"b","entity_type":"Y"},{"entity_type":"X","partner_client_id":"C"},{"partner_client_id":"a\u0022b"},`+
		`{"partner_client_id":"D","entity_type":"X"},{"partner_client_id":"D","entity_type":null}]`)
	conflict := `conflict: items 0, 3 and 5 share partner_client_id "a\"b" but their data differs`
	for i, want := range []intake.Verdict{
		{Code: intake.CodeConflictInRequest, Text: conflict},
		{Code: intake.CodeInvalid, Text: "item: must be a JSON object, not a number"},
		{},
		{Code: intake.CodeConflictInRequest, Text: conflict},
		{Code: intake.CodeDuplicateInRequest, Text: "duplicate of item 2 in this request"},
		{Code: intake.CodeConflictInRequest, Text: conflict},
		{Code: intake.CodeConflictInRequest,
			Text: `conflict: items 6 and 7 share partner_client_id "D" but their data differs`},
		{Code: intake.CodeConflictInRequest,
			Text: `conflict: items 6 and 7 share partner_client_id "D" but their data differs`},
	} {
		if verdicts[i] != want {
			t.Errorf("item %d: %+v, want %+v", i, verdicts[i], want)
		}
	}
}

// All items of the largest batch share a key: the text names ten of them, and is
// there once.
func TestInBatch_OneKeyOnly(t *testing.T) {
	items := make([]string, intake.MaxBatchItems)
	for i := range items {
		items[i] = fmt.Sprintf(`{"partner_client_id":"A","entity_type":"X%d"}`, i%2)
	}
	verdicts := judged(t, "["+strings.Join(items, ",")+"]")
	want := `conflict: items 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 9990 more share partner_client_id "A" but their data differs`
	for i, v := range verdicts {
		if v.Code != intake.CodeConflictInRequest || v.Text != want {
			t.Fatalf("item %d: %+v", i, v)
		}
	}
}

// The model is slow and obvious: it decodes each item with encoding/json and
// compares it to every other one.
func TestInBatch_Model(t *testing.T) {
	// A check is a hundred batches.
	for range 30 {
		rapid.Check(t, func(t *rapid.T) {
			spellings := rapid.SliceOfN(rapid.Custom(anyItem), 1, 12).Draw(t, "items")
			items, err := decode.Batch([]byte("["+strings.Join(spellings, ",")+"]"), acme, now)
			if err != nil {
				t.Fatal(err)
			}
			verdicts := make([]intake.Verdict, len(items))
			dedupe.InBatch(items, verdicts)
			if diff := cmp.Diff(modelVerdicts(spellings, items), verdicts); diff != "" {
				t.Fatalf("want -, got +:\n%s", diff)
			}
		})
	}
}

// modelVerdicts takes from the decoder only which errors an item has.
func modelVerdicts(spellings []string, items []intake.Item) []intake.Verdict {
	verdicts := make([]intake.Verdict, len(items))
	for i, spelling := range spellings {
		key := modelKey(spelling)
		var group []int
		same := true
		for j, other := range spellings {
			if key != "" && modelKey(other) == key {
				group = append(group, j)
				same = same && sameValue(modelValue(spelling), modelValue(other))
			}
		}
		switch {
		case key == "":
			verdicts[i] = intake.Invalid(items[i].Errors)
		case !same:
			verdicts[i] = intake.ConflictInRequest(group, key)
		case group[0] != i:
			verdicts[i] = intake.DuplicateInRequest(group[0])
		case items[i].Errors != "":
			verdicts[i] = intake.Invalid(items[i].Errors)
		}
	}
	return verdicts
}

func modelKey(spelling string) string {
	object, _ := modelValue(spelling).(map[string]any)
	ids, _ := object["partner_client_id"].([]any)
	if len(ids) != 1 {
		return ""
	}
	key, _ := ids[0].(string)
	return key
}

// modelValue returns what encoding/json makes of a text, except that an object has
// a list of values for each name: a name may be given more than once.
func modelValue(spelling string) any {
	decoder := json.NewDecoder(strings.NewReader(spelling))
	decoder.UseNumber()
	return nextValue(decoder)
}

func nextValue(decoder *json.Decoder) any {
	switch token := nextToken(decoder); token {
	case json.Delim('{'):
		object := make(map[string]any)
		for decoder.More() {
			name := nextToken(decoder).(string)
			before, _ := object[name].([]any)
			object[name] = append(before, nextValue(decoder))
		}
		nextToken(decoder)
		return object
	case json.Delim('['):
		array := []any{}
		for decoder.More() {
			array = append(array, nextValue(decoder))
		}
		nextToken(decoder)
		return array
	default:
		return token
	}
}

func nextToken(decoder *json.Decoder) json.Token {
	token, err := decoder.Token()
	if err != nil {
		panic(err)
	}
	return token
}

func sameValue(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for name, value := range a {
			other, there := b[name]
			if !there || !sameValue(value, other) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, sameValue)
	case json.Number:
		b, ok := b.(json.Number)
		if !ok {
			return false
		}
		x, _ := new(big.Rat).SetString(a.String())
		y, _ := new(big.Rat).SetString(b.String())
		return x.Cmp(y) == 0
	default:
		return a == b
	}
}

// anyItem spells one of few keys with one of few data, valid or not, in one of
// many ways.
func anyItem(t *rapid.T) string {
	pick := func(what string, choices ...string) string { return rapid.SampledFrom(choices).Draw(t, what) }
	if pick("kind", "object", "object", "object", "object", "object", "object", "object", "other") == "other" {
		return pick("other", "7", "7.0", "null", `"A"`, "[]", "{}", "true")
	}
	key := `"partner_client_id":` + pick("key", `"A"`, `"A"`, `"\u0041"`, `"B"`, `"B"`, `"C"`, `""`, "null", "5",
		`["A"]`)
	members := []string{
		key,
		`"entity_type":` + pick("type", `"X"`, `"X"`, `"X"`, `"\u0058"`, `"Y"`, "5", "5.0", `""`),
	}
	switch pick("more", "none", "none", "claim", "claim", "null", "unknown", "key twice", "another twice",
		"another twice") {
	case "claim":
		members = append(members, `"revenue_claims":[`+anyClaim(t, pick)+`]`)
	case "null":
		members = append(members, `"revenue_claims":null`)
	case "unknown":
		members = append(members, `"x":`+pick("x", "1", "1.0", "10e-1", "1e0", "2", "1e400000", `"1"`,
			`{"a":1,"b":[2]}`, `{"b":[2.0],"a":1}`))
	case "key twice":
		members = append(members, key)
	case "another twice":
		members = append(members, `"x":`+pick("x", "1", "1.0", "2"), `"\u0078":`+pick("x again", "1", "2", "2e0",
			"null"))
	}
	space := pick("space", "", " ", "\n\t")
	return space + "{" + strings.Join(rapid.Permutation(members).Draw(t, "order"), space+","+space) + space + "}" +
		space
}

func anyClaim(t *rapid.T, pick func(string, ...string) string) string {
	return "{" + strings.Join(rapid.Permutation([]string{
		`"start_date":"2025-02-01T00:00:00.000Z"`, `"end_date":"2025-02-28T23:59:59.999Z"`, `"time_period":"Monthly"`,
		`"currency":"GBP"`,
		`"total_amount":` + pick("amount", "1", "1.0", "1e0", "0.1e1", "1.0001", "1.00001", "-1"),
		`"transaction_count":` + pick("count", "1", "1.0", "10e-1", "2"),
	}).Draw(t, "claim"), ",") + "}"
}

func BenchmarkInBatch(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			items, verdicts := decoded(b, n), make([]intake.Verdict, n)
			b.ReportAllocs()
			for b.Loop() {
				dedupe.InBatch(items, verdicts)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/item")
		})
	}
}

// decoded returns n valid items, no key twice.
func decoded(t testing.TB, n int) []intake.Item {
	t.Helper()
	var body bytes.Buffer
	for i := range n {
		fmt.Fprintf(&body, `,{"partner_client_id":"1b7901db-4879-4616-8052-%012d","entity_type":"SoleTrader"}`, i)
	}
	body.Bytes()[0] = '['
	body.WriteByte(']')
	items, err := decode.Batch(body.Bytes(), acme, now)
	if err != nil {
		t.Fatal(err)
	}
	return items
}
