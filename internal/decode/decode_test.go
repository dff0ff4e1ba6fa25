package decode_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"intake"
	"intake/internal/decode"
)

// with returns the JSON text of an object whose members are pairs of name and
// JSON value. A later pair of a name replaces an earlier one; the value "" drops it.
func with(pairs ...string) string {
	var names []string
	values := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		if _, ok := values[pairs[i]]; !ok {
			names = append(names, pairs[i])
		}
		values[pairs[i]] = pairs[i+1]
	}
	var b []string
	for _, name := range names {
		if values[name] != "" {
			b = append(b, `"`+name+`":`+values[name])
		}
	}
	return "{" + strings.Join(b, ",") + "}"
}

// item returns a valid item, but for some members.
func item(but ...string) string {
	return with(append([]string{"partner_client_id", `"A"`, "entity_type", `"SoleTrader"`}, but...)...)
}

// claim returns a valid claim for February 2025, but for some members.
func claim(but ...string) string {
	return with(append([]string{"start_date", `"2025-02-01T00:00:00.000Z"`, "end_date", `"2025-02-28T23:59:59.999Z"`,
		"time_period", `"Monthly"`, "currency", `"GBP"`, "total_amount", "30000.25", "transaction_count", "150"},
		but...)...)
}

// claiming returns an item that has these claims.
func claiming(claims ...string) string {
	return item("revenue_claims", "["+strings.Join(claims, ",")+"]")
}

// identifying returns an item that has these other_identifiers.
func identifying(identifiers ...string) string {
	return item("other_identifiers", "["+strings.Join(identifiers, ",")+"]")
}

// times returns n of a JSON value, in a row.
func times(n int, value string) string {
	return strings.TrimSuffix(strings.Repeat(value+",", n), ",")
}

func decodeOne(t *testing.T, p *intake.Partner, text string) intake.Item {
	t.Helper()
	items, err := decode.Batch([]byte("["+text+"]"), p, now)
	if err != nil {
		t.Fatalf("%v in %.200s", err, text)
	}
	if len(items) != 1 {
		t.Fatalf("%d items in %.200s", len(items), text)
	}
	return items[0]
}

func TestBatch_Valid(t *testing.T) {
	second := item("partner_client_id", `"caf\u00e9 \ud83d\ude00"`)
	first := ` {"revenue_claims" : [` + claim() + ", " + claim("start_date", `"2025-01-31T00:00:00.000Z"`, "end_date",
		`"2025-01-31T23:59:59.999999Z"`,
		"time_period", `"D\u0061ily"`, "total_amount", "-15e-1", "transaction_count", "-2.0") + `],
		"other_identifiers":[ {"values":["1", "2"],"key":"MerchantId"} ], "client_start_date":"2024-04-23T13:44:03.585123+01:00",
		"entity_type":"SoleTrader","partner_client_id":"A"} `
	body := []byte(" [" + first + "," + second + "]\n")

	items, err := decode.Batch(body, gbp, now)
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) intake.Timestamp {
		moment, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return intake.Timestamp(moment.UnixMicro())
	}
	want := []intake.Item{
		{
			Raw: []byte(strings.TrimSpace(first)),
			Key: "A",
			Client: intake.PartnerClient{
				ID:               "A",
				StartDate:        at("2024-04-23T12:44:03.585123Z"),
				EntityType:       "SoleTrader",
				OtherIdentifiers: []byte(`[ {"values":["1", "2"],"key":"MerchantId"} ]`),
				Claims: []intake.RevenueClaim{
					{
						Start: at("2025-02-01T00:00:00Z"), End: at("2025-02-28T23:59:59.999Z"), Period: intake.Monthly,
						TotalAmount: intake.Amount{Abs: 300_002_500}, TransactionCount: 150,
					},
					{
						Start: at("2025-01-31T00:00:00Z"), End: at("2025-01-31T23:59:59.999999Z"), Period: intake.Daily,
						TotalAmount: intake.Amount{Neg: true, Abs: 15_000}, TransactionCount: -2,
					},
				},
				Fingerprint: decode.Fingerprint([]byte(first)),
			},
		},
		{
			Raw: []byte(second),
			Key: "café 😀",
			Client: intake.PartnerClient{
				Item:        1,
				ID:          "café 😀",
				StartDate:   intake.NoTimestamp,
				EntityType:  "SoleTrader",
				Claims:      []intake.RevenueClaim{},
				Fingerprint: decode.Fingerprint([]byte(second)),
			},
		},
	}
	if diff := cmp.Diff(want, items, equateEmptyClaims); diff != "" {
		t.Error(diff)
	}
}

// A client's claims that it has none of may be nil or empty.
var equateEmptyClaims = cmp.FilterValues(
	func(a, b []intake.RevenueClaim) bool { return len(a) == 0 && len(b) == 0 },
	cmp.Comparer(func(a, b []intake.RevenueClaim) bool { return true }))

// Whatever is not a batch is refused as a whole, with the offset.
func TestBatch_SyntaxError(t *testing.T) {
	nested := func(levels int) string { return strings.Repeat("[", levels) + strings.Repeat("]", levels) }
	for _, test := range []struct {
		body   string
		offset int
		reason string
	}{
		{"", 0, "the body is empty"},
		{" \r\n\t", 4, "the body is empty"},
		{"[]", 0, "the array holds no items"},
		{" [ ] ", 1, "the array holds no items"},
		{`{"partner_client_id":"A"}`, 0, "must be a JSON array of items, not an object"},
		{` "A"`, 1, "must be a JSON array of items, not a string"},
		{"null", 0, "must be a JSON array of items, not null"},
		{"12", 0, "must be a JSON array of items, not a number"},
		{"true", 0, "must be a JSON array of items, not a boolean"},
		{"nul", 0, "not JSON: expected null"},
		{`{"a":}`, 5, "not JSON: expected a value"},
		{"\uFEFF[{}]", 0, "not JSON: a byte order mark"},
		{"[{}]\uFEFF", 4, "not JSON: trailing bytes after the array"},
		{"[{}] []", 5, "not JSON: trailing bytes after the array"},
		{"[{}]\x00", 4, "not JSON: trailing bytes after the array"},
		{"[{}]]", 4, "not JSON: trailing bytes after the array"},
		{"[{\"a\":\"\xff\"}]", 7, "not UTF-8"},
		{"[{}]\xc3", 4, "not UTF-8"},
		{"[\"\xed\xa0\x80\"]", 2, "not UTF-8"},
		{"[", 1, "not JSON: the body ends where there should be"},
		{"[{}", 3, "not JSON: the body ends where there should be"},
		{"[{},]", 4, "not JSON: expected a value"},
		{"[,{}]", 1, "not JSON: expected a value"},
		{"[{} {}]", 4, `not JSON: expected "," or "]"`},
		{"[{}}", 3, `not JSON: expected "," or "]"`},
		{"[}", 1, "not JSON: expected a value"},
		{"[{]", 2, "not JSON: expected a property name"},
		{`[{"a"}]`, 5, `not JSON: expected ":"`},
		{`[{"a":1,}]`, 8, "not JSON: expected a property name"},
		{`[{a:1}]`, 2, "not JSON: expected a property name"},
		{`[{"a":1 "b":2}]`, 8, `not JSON: expected "," or "}"`},
		{`[{"a":'b'}]`, 6, "not JSON: expected a value"},
		{`[{"a":01}]`, 7, `not JSON: expected "," or "}"`},
		{`[{"a":+1}]`, 6, "not JSON: expected a value"},
		{`[{"a":.5}]`, 6, "not JSON: expected a value"},
		{`[{"a":1.}]`, 8, "not JSON: expected a digit"},
		{`[{"a":1e}]`, 8, "not JSON: expected a digit"},
		{`[{"a":-}]`, 7, "not JSON: expected a digit"},
		{`[{"a":NaN}]`, 6, "not JSON: expected a value"},
		{`[{"a":tru}]`, 6, "not JSON: expected true"},
		{`[{"a":/**/1}]`, 6, "not JSON: expected a value"},
		{`[{"a":"b}]`, 10, "not JSON: the body ends within a string"},
		{`[{"a":"\`, 8, "not JSON: the body ends within a string"},
		{`[{"a":"\u12`, 7, "not JSON: an unknown escape in a string"},
		{`[{"a":"\x"}]`, 7, "not JSON: an unknown escape in a string"},
		{`[{"a":"\u12G4"}]`, 7, "not JSON: an unknown escape in a string"},
		{"[{\"a\":\"b\nc\"}]", 8, "not JSON: a control character in a string"},
		{"[{\"a\n\":1}]", 4, "not JSON: a control character in a string"},
		{`[` + item("revenue_claims", `[{"start_date":}]`) + `]`, 85, "not JSON: expected a value"},
		{`[` + item("other_identifiers", `[{"values":["a" "b"]}]`) + `]`, 89, `not JSON: expected "," or "]"`},
		{`["no object", {"entity_type" 1}]`, 29, `not JSON: expected ":"`},
		{nested(33), 32, "nested deeper than 32 levels"},
		{`[{"x":` + nested(31) + `}]`, 36, "nested deeper than 32 levels"},
		{"[" + strings.Repeat(`{"a":`, 1_000_000), 1 + 31*5, "nested deeper than 32 levels"},
	} {
		_, err := decode.Batch([]byte(test.body), gbp, now)
		var syntax *decode.SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%.80q: got %v, want a SyntaxError", test.body, err)
			continue
		}
		if syntax.Offset != test.offset || !strings.HasPrefix(syntax.Reason, test.reason) {
			t.Errorf("%.80q: got %v, want %s at byte %d", test.body, err, test.reason, test.offset)
		}
		for reason, code := range map[string]string{
			"not UTF-8": decode.NotUTF8, "not JSON": decode.NotJSON, "the body is empty": decode.NotJSON,
			"nested": decode.TooDeep, "must be": decode.NotAnArray, "the array holds": decode.NoItems,
		} {
			if strings.HasPrefix(test.reason, reason) && syntax.Code != code {
				t.Errorf("%.80q: %v has the code %s, want %s", test.body, err, syntax.Code, code)
			}
		}
	}
}

func TestBatch_Limits(t *testing.T) {
	t.Run("32 levels pass", func(t *testing.T) {
		got := decodeOne(t, gbp, strings.Repeat("[", 31)+strings.Repeat("]", 31))
		if got.Errors != "item: must be a JSON object, not an array" {
			t.Error(got.Errors)
		}
	})
	t.Run("10,000 items pass, one more is too many", func(t *testing.T) {
		items, err := decode.Batch([]byte("["+times(10_000, "{}")+"]"), gbp, now)
		if err != nil || len(items) != 10_000 {
			t.Errorf("%d items, %v", len(items), err)
		}
		_, err = decode.Batch([]byte("["+times(10_001, "{}")+"]"), gbp, now)
		if !errors.Is(err, decode.ErrTooManyItems) {
			t.Error(err)
		}
	})
	t.Run("of arrays", func(t *testing.T) {
		for _, text := range []string{
			claiming(times(1000, claim())),
			identifying(times(50, `{"key":"K","values":[`+times(50, `"v"`)+`]}`)),
			identifying(`{"key":"` + strings.Repeat("é", 64) + `","values":["` + strings.Repeat("é", 256) + `"]}`),
			item("partner_client_id", `"`+strings.Repeat("é", 128)+`"`),
			item("entity_type", `"`+strings.Repeat("x", 64)+`"`),
		} {
			if got := decodeOne(t, gbp, text); got.Errors != "" {
				t.Errorf("%s for %.200s", got.Errors, text)
			}
		}
	})
}

// Items do not see each other: claims of a valid item stay what they are when
// invalid items come between, and when the memory for them runs out and grows.
func TestBatch_ItemsKeepTheirClaims(t *testing.T) {
	var texts []string
	for i := range 200 {
		var claims []string
		for j := range i {
			claims = append(claims, claim("transaction_count", fmt.Sprint(1+i*1000+j)))
		}
		if i%3 == 1 {
			claims = append(claims, claim("currency", `"EUR"`))
		}
		texts = append(texts, claiming(claims...))
	}
	items, err := decode.Batch([]byte("["+strings.Join(texts, ",")+"]"), gbp, now)
	if err != nil {
		t.Fatal(err)
	}
	for i := range items {
		if i%3 == 1 {
			if items[i].Errors == "" {
				t.Errorf("item %d should be invalid", i)
			}
			continue
		}
		claims := items[i].Client.Claims
		if len(claims) != i || cap(claims) != i {
			t.Fatalf("item %d has %d claims, room for %d", i, len(claims), cap(claims))
		}
		for j := range claims {
			if claims[j].TransactionCount != int64(1+i*1000+j) {
				t.Fatalf("item %d claim %d has the count %d", i, j, claims[j].TransactionCount)
			}
		}
	}
}

// The shared cases, as far as decoding decides them.
func TestBatch_Cases(t *testing.T) {
	files, err := filepath.Glob("testdata/cases/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(err, len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var c struct {
				Request json.RawMessage
				Body    string
				HTTP    int
				Expect  []struct {
					Code string
					Says []string
				}
			}
			if err := json.Unmarshal(text, &c); err != nil {
				t.Fatal(err)
			}
			body := []byte(c.Body)
			if c.Request != nil {
				body = c.Request
			}
			items, err := decode.Batch(body, gbp, now)
			if c.HTTP == 400 {
				var syntax *decode.SyntaxError
				if !errors.As(err, &syntax) {
					t.Errorf("got %v, want a SyntaxError", err)
				}
				return
			}
			if err != nil || len(items) != len(c.Expect) {
				t.Fatalf("%d items of %d, %v", len(items), len(c.Expect), err)
			}
			for i, expect := range c.Expect {
				switch expect.Code {
				case "saved", "duplicate_of_saved":
					if items[i].Errors != "" {
						t.Errorf("item %d: %s", i, items[i].Errors)
					}
				case "invalid":
					for _, says := range expect.Says {
						if !strings.Contains(items[i].Errors, says) {
							t.Errorf("item %d: %q does not say %q", i, items[i].Errors, says)
						}
					}
				}
			}
		})
	}
}

// The fingerprint of a valid item, which is made while decoding, is that of its
// text, however the item is spelt.
func TestBatch_Fingerprint(t *testing.T) {
	object := func(t *rapid.T, pairs ...string) string {
		var members []string
		for i := 0; i < len(pairs); i += 2 {
			name := pairs[i]
			if rapid.Bool().Draw(t, "escape") {
				name = fmt.Sprintf(`\u%04x`, name[0]) + name[1:]
			}
			if pairs[i+1] != "" {
				members = append(members, `"`+name+`" : `+pairs[i+1])
			}
		}
		return "{" + strings.Join(rapid.Permutation(members).Draw(t, "members"), " ,") + "}"
	}
	list := func(t *rapid.T, one func(t *rapid.T) string) string {
		return "[" + strings.Join(rapid.SliceOfN(rapid.Custom(one), 0, 3).Draw(t, "elements"), ", ") + "]"
	}
	oneOf := func(t *rapid.T, texts ...string) string { return rapid.SampledFrom(texts).Draw(t, "text") }
	claim := func(t *rapid.T) string {
		return object(t, "start_date", oneOf(t, `"2025-02-01T00:00:00Z"`, `"2025-02-01T00:00:00:000"`), "end_date",
			oneOf(t, `"2025-02-28T23:59:59.999Z"`, `"2025-02-28T23:59:59.9999999Z"`),
			"time_period", oneOf(t, `"Monthly"`, `"\u004donthly"`), "currency", oneOf(t, `"GBP"`, `"G\u0042P"`),
			"total_amount", oneOf(t, "1", "1.50", "15e-1", "0.000e99999999999999999999", "123456789012345.6789"),
			"transaction_count", oneOf(t, "1", "0", "-0", "10e-1"))
	}
	identifier := func(t *rapid.T) string {
		return object(t, "key", oneOf(t, `"K"`, `"\u00e9"`), "values", oneOf(t, `["v"]`, `["\ud83d\ude00","\n"]`))
	}
	rapid.Check(t, func(t *rapid.T) {
		text := object(t, "partner_client_id", oneOf(t, `"A"`, `"\u0041"`, `"é"`), "entity_type",
			oneOf(t, `"X"`, `"X\u0041"`),
			"client_start_date", oneOf(t, "", "null", `"2024-04-23T13:44:03.585Z"`), "other_identifiers",
			oneOf(t, "", "null", "[]", list(t, identifier)),
			"revenue_claims", oneOf(t, "", "null", " [ ]", list(t, claim)))
		// The second of two, so that it is seen what the first one leaves behind.
		items, err := decode.Batch([]byte("["+item("revenue_claims", "["+claim(t)+"]")+","+text+"]"), gbp, now)
		if err != nil || items[1].Errors != "" {
			t.Fatalf("%s: %v %s", text, err, items[1].Errors)
		}
		if items[1].Client.Fingerprint != fingerprint(text) {
			t.Fatalf("%s has another fingerprint", text)
		}
	})
}

func FuzzBatch(f *testing.F) {
	f.Add([]byte(`[` + item() + `,` + claiming(claim(), claim("total_amount", "-1e-2", "transaction_count", "-0")) +
		`]`))
	f.Add([]byte(`[` + identifying(`{"values":["1","\u0000\ud800"],"key":"MerchantId"}`) +
		`, {"x":[[[{}]],null,true,false,-0.5E+3]} , "A", 5]`))
	f.Add([]byte(`[{"partner_client_id":"\ud83d\ude00","entity\u005ftype":"X","entity_type":"Y","client_start_date":null}]`))
	f.Add([]byte(`[` + times(5, claiming(claim(), claim("total_amount", "-1.5", "transaction_count", "-3"))) + `]`))
	f.Add([]byte("[{\"a\":\"\xff\"}]"))
	f.Add([]byte(`[{"a":1}] x`))
	f.Add([]byte(strings.Repeat("[", 40) + strings.Repeat("]", 40)))
	f.Fuzz(func(t *testing.T, body []byte) {
		decode.Fingerprint(body) // of anything: it means nothing, but does no harm
		items, err := decode.Batch(body, gbp, now)
		if err != nil {
			checkRefusal(t, body, err)
			return
		}
		var raws []json.RawMessage
		if err := json.Unmarshal(body, &raws); err != nil || len(raws) != len(items) {
			t.Fatalf("encoding/json has %d items of %d, %v", len(raws), len(items), err)
		}
		for i := range items {
			if !bytes.Equal(items[i].Raw, raws[i]) {
				t.Fatalf("item %d is %q, not %q", i, items[i].Raw, raws[i])
			}
			if client := &items[i].Client; items[i].Errors == "" &&
				(client.Item != i || client.Fingerprint != decode.Fingerprint(raws[i])) {
				t.Fatalf("item %d: %+v has another fingerprint than its text", i, client)
			}
		}
		if diff := cmp.Diff(decodedAlone(t, items), items); diff != "" {
			t.Fatal(diff)
		}
	})
}

// decodedAlone returns what each item is decoded to in a batch of its own, where it has no
// items before it to repeat.
func decodedAlone(t fataler, items []intake.Item) []intake.Item {
	alone := make([]intake.Item, len(items))
	for i := range items {
		one, err := decode.Batch([]byte("["+string(items[i].Raw)+"]"), gbp, now)
		if err != nil || len(one) != 1 {
			t.Fatalf("item %d by itself: %d items, %v", i, len(one), err)
		}
		alone[i] = one[0]
		if alone[i].Errors == "" {
			alone[i].Client.Item = i
		}
	}
	return alone
}

type fataler interface {
	Fatalf(format string, args ...any)
}

// A batch whose items repeat the same claims, with other numbers or other mistakes, is
// decoded as if each item were by itself.
func TestBatch_RepeatedClaims(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(from ...string) string { return rapid.SampledFrom(from).Draw(t, "text") }
		names := rapid.SampledFrom([][]string{
			{"start_date", "end_date", "time_period", "currency", "total_amount", "transaction_count"},
			{"transaction_count", "currency", "end_date", "start_date", "time_period", "total_amount"},
			{"currency", "start_date", "transaction_count", "time_period", "total_amount", "end_date"},
		}).Draw(t, "order")
		colon, comma := draw(":", " : ", ": "), draw(",", ", ", "\n,")
		claim := func() string {
			month := draw("01", "03", "0\\u0035")
			values := map[string]string{
				"start_date":  `"2025-` + month + `-01T00:00:00.000Z"`,
				"end_date":    `"2025-` + month + `-31T23:59:59.999Z"`,
				"time_period": `"Monthly"`, "currency": `"GBP"`, "total_amount": anyNumber.Draw(t, "amount"),
				"transaction_count": draw("0", "1", "150", "12345678", "123456789", "-3", "3.0", "1e2", `"1"`, "1.5"),
			}
			if rapid.IntRange(0, 9).Draw(t, "mistake") == 0 {
				values[rapid.SampledFrom(names).Draw(t, "member")] = draw(`"EUR"`, "null", `"2025-02-28T23:59:59.999Z"`,
					"5", `"\ud800"`)
			}
			var members []string
			for _, name := range names {
				members = append(members, `"`+name+`"`+colon+values[name])
			}
			return "{" + strings.Join(members, comma) + draw("}", "}", "}", " }", `,"x":1}`)
		}
		var texts []string
		for range rapid.IntRange(1, 12).Draw(t, "items") {
			var claims []string
			for range rapid.IntRange(0, 4).Draw(t, "claims") {
				claims = append(claims, claim())
			}
			texts = append(texts, claiming(claims...))
		}
		body := "[" + strings.Join(texts, ",") + "]"
		items, err := decode.Batch([]byte(body), gbp, now)
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if diff := cmp.Diff(decodedAlone(t, items), items, equateEmptyClaims); diff != "" {
			t.Fatalf("%s\n%s", body, diff)
		}
	})
}

// A claim that would repeat others if its numbers were JSON is refused where it is not.
func TestBatch_RepeatedClaimsSyntaxError(t *testing.T) {
	others := times(5, claiming(claim())) + ","
	for _, number := range []string{"", "01", "-", "-01", "1.", ".5", "1.e1", "1e", "+1", "1 2", "1x", "1,", "1}",
		"123456789 0"} {
		for _, name := range []string{"total_amount", "transaction_count"} {
			bad := strings.Replace(claiming(claim(name, "NUMBER")), "NUMBER", number, 1)
			want := decodeError(t, "["+bad+"]")
			got := decodeError(t, "["+others+bad+"]")
			if want.Reason != got.Reason || want.Offset+len(others) != got.Offset {
				t.Errorf("%s %q: got %v, want %v and %d bytes more", name, number, got, want, len(others))
			}
		}
	}
}

func decodeError(t *testing.T, body string) *decode.SyntaxError {
	t.Helper()
	_, err := decode.Batch([]byte(body), gbp, now)
	syntax, ok := errors.AsType[*decode.SyntaxError](err)
	if !ok {
		t.Fatalf("%s: got %v, want a SyntaxError", body, err)
	}
	return syntax
}

// checkRefusal checks that a body was refused for a reason.
func checkRefusal(t fataler, body []byte, err error) {
	var syntax *decode.SyntaxError
	if errors.Is(err, decode.ErrTooManyItems) {
		return
	}
	if !errors.As(err, &syntax) || syntax.Offset < 0 || syntax.Offset > len(body) {
		t.Fatalf("%v", err)
	}
	for _, other := range []string{"not UTF-8", "nested deeper", "must be a JSON array", "the array holds no items"} {
		if strings.HasPrefix(syntax.Reason, other) {
			return
		}
	}
	if json.Valid(body) {
		t.Fatalf("%v, but encoding/json finds nothing wrong", err)
	}
}
