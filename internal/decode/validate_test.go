package decode_test

import (
	"strings"
	"testing"

	"intake"
	"intake/internal/decode"
)

// Each invalid item has all of its errors named, in the order of the contract's table.
func TestBatch_ItemErrors(t *testing.T) {
	for _, test := range []struct{ item, want string }{
		{`"A"`, "item: must be a JSON object, not a string"},
		{`["A"]`, "item: must be a JSON object, not an array"},
		{"null", "item: must be a JSON object, not null"},
		{"-1", "item: must be a JSON object, not a number"},
		{"false", "item: must be a JSON object, not a boolean"},

		{"{}", "partner_client_id: required; entity_type: required"},
		{item("partner_client_id", "null", "entity_type", "null"),
			"partner_client_id: required; entity_type: required"},
		{item("partner_client_id", "7"), "partner_client_id: must be a string, not a number"},
		{item("partner_client_id", `""`), "partner_client_id: must not be empty"},
		{item("partner_client_id", `"`+strings.Repeat("é", 129)+`"`),
			"partner_client_id: must have at most 128 characters"},
		{item("partner_client_id", `"a\tb"`), "partner_client_id: must not hold control characters"},
		{item("partner_client_id", `"a`+"\u007f"+`"`), "partner_client_id: must not hold control characters"},
		{item("partner_client_id", `"\u0080"`), "partner_client_id: must not hold control characters"},
		{item("partner_client_id", `"\u009f"`), "partner_client_id: must not hold control characters"},
		{item("partner_client_id", `"\u00a0"`), ""},
		{item("partner_client_id", `"a\u0000"`), "partner_client_id: must not hold U+0000"},
		{item("partner_client_id", `"\ud800x"`), "partner_client_id: must not hold a lone surrogate escape"},
		{item("partner_client_id", `"\udc00\ud800"`), "partner_client_id: must not hold a lone surrogate escape"},
		{item("partner_client_id", `"\ud800\u0000"`),
			"partner_client_id: must not hold U+0000, nor a lone surrogate escape"},
		{item("partner_client_id", `"\ud83d\ude00"`), ""},
		{`{"partner_client_id":"A","entity_type":"X","partner_client_id":"A"}`,
			"partner_client_id: given more than once"},
		{`{"partner_client_id":"A","entity_type":"X","entity\u005ftype":5,"entity_type":null}`,
			"entity_type: given more than once"},

		{item("client_start_date", "null"), ""},
		{item("client_start_date", "20240423"), "client_start_date: must be a string, not a number"},
		{item("client_start_date", `"23.04.2024"`),
			`client_start_date: must be a timestamp such as 2025-01-31T23:59:59.999Z, not "23.04.2024"`},
		{item("client_start_date", `"2026-01-16T12:00:00.000Z"`), ""},
		{item("client_start_date", `"2026-01-16T12:00:00.000001Z"`),
			"client_start_date: must not be later than a day from now"},

		{item("entity_type", "5"), "entity_type: must be a string, not a number"},
		{item("entity_type", "{}"), "entity_type: must be a string, not an object"},
		{item("entity_type", `""`), "entity_type: must be 1 to 64 ASCII letters and digits, starting with a letter"},
		{item("entity_type", `"9X"`), "entity_type: must be 1 to 64 ASCII letters and digits, starting with a letter"},
		{item("entity_type", `"Sole Trader"`),
			"entity_type: must be 1 to 64 ASCII letters and digits, starting with a letter"},
		{item("entity_type", `"`+strings.Repeat("x", 65)+`"`),
			"entity_type: must be 1 to 64 ASCII letters and digits, starting with a letter"},
		{item("entity_type", `["\u0000"]`),
			"entity_type: must be a string, not an array; entity_type: must not hold U+0000"},

		{item("other_identifiers", "null"), ""},
		{item("other_identifiers", "[]"), ""},
		{item("other_identifiers", `"x"`), "other_identifiers: must be an array, not a string"},
		{identifying(`{"key":"K","values":["v"]}`, "3"), "other_identifiers[1]: must be an object, not a number"},
		{identifying("{}"), "other_identifiers[0].key: required; other_identifiers[0].values: required"},
		{identifying(`{"values":null,"key":null}`),
			"other_identifiers[0].key: required; other_identifiers[0].values: required"},
		{identifying(`{"values":"v","key":1}`),
			"other_identifiers[0].key: must be a string, not a number; other_identifiers[0].values: must be an array, not a string"},
		{identifying(`{"values":[],"key":""}`),
			"other_identifiers[0].key: must not be empty; other_identifiers[0].values: must have 1 to 50 elements"},
		{identifying(`{"values":[` + times(51, `"v"`) + `],"key":"` + strings.Repeat("é", 65) + `"}`),
			"other_identifiers[0].key: must have at most 64 characters; other_identifiers[0].values: must have 1 to 50 elements"},
		{identifying(`{"key":"K","values":["v","",null,"` + strings.Repeat("é", 257) + `","\u0000","\ud800"]}`),
			"other_identifiers[0].values[1]: must not be empty; other_identifiers[0].values[2]: must be a string, not null; " +
				"other_identifiers[0].values[3]: must have at most 256 characters; other_identifiers[0].values[4]: must not hold U+0000; " +
				"other_identifiers[0].values[5]: must not hold a lone surrogate escape"},
		{identifying(`{"key":"K","values":[1],"values":[2],"x":[]}`),
			"other_identifiers[0].values: given more than once; other_identifiers[0].x: unknown property"},
		{identifying(`{"key":"K","values":["v"],"key":1}`), "other_identifiers[0].key: given more than once"},
		{identifying(times(51, `{"key":"K","values":["v"]}`)), "other_identifiers: must have at most 50 elements"},
		{identifying(times(50, `{"key":"K","values":["v"]}`), `{"key":"\u0000"}`, "5"),
			"other_identifiers: must have at most 50 elements"},
		{`{"partner_client_id":"A","entity_type":"X","other_identifiers":[1],"other_identifiers":null}`,
			"other_identifiers: given more than once"},
		{`{"partner_client_id":"A","entity_type":"X","other_identifiers":null,"other_identifiers":[1]}`,
			"other_identifiers: given more than once"},

		{item("revenue_claims", "null"), ""},
		{item("revenue_claims", "{}"), "revenue_claims: must be an array, not an object"},
		{claiming(claim(), "[]"), "revenue_claims[1]: must be an object, not an array"},
		{claiming(times(1001, claim())), "revenue_claims: must have at most 1000 elements"},
		{claiming(times(1000, claim()), times(5, "null")), "revenue_claims: must have at most 1000 elements"},
		{`{"partner_client_id":"A","revenue_claims":[1,2],"entity_type":"X","revenue_claims":[3]}`,
			"revenue_claims: given more than once"},
		{claiming("{}"), "revenue_claims[0].start_date: required; revenue_claims[0].end_date: required; revenue_claims[0].time_period: required; " +
			"revenue_claims[0].currency: required; revenue_claims[0].total_amount: required; revenue_claims[0].transaction_count: required"},
		{claiming(claim(), claim(), claim(), claim("x", "1")), "revenue_claims[3].x: unknown property"},
		{claiming(strings.Replace(claim(), "{", `{"currency":1,`, 1)),
			"revenue_claims[0].currency: given more than once"},

		{item("entity_typo", `"x"`), "entity_typo: unknown property"},
		{`{"z":1,"a":1,"partner_client_id":5}`,
			"partner_client_id: must be a string, not a number; entity_type: required; z: unknown property; a: unknown property"},
		{item("", "1"), `"": unknown property`},
		{item("odd name", "1"), `"odd name": unknown property`},
		{item(`\u0000`, "1"), `"\x00": unknown property; "\x00": must not hold U+0000`},
		{item("x", `[{"y":["\udfff"]}]`), "x: unknown property; x: must not hold a lone surrogate escape"},
		{item("x", `[{"\u0000":1}]`), "x: unknown property; x: must not hold U+0000"},
		{item(strings.Repeat("é", 65), "1"), `"` + strings.Repeat("é", 64) + `"…: unknown property`},
		{item("Entity_Type", "1"), "Entity_Type: unknown property"},
		{`{"x":1,"revenue_claims":[{}],"other_identifiers":5}`,
			"partner_client_id: required; entity_type: required; other_identifiers: must be an array, not a number; " +
				"revenue_claims[0].start_date: required; revenue_claims[0].end_date: required; revenue_claims[0].time_period: required; " +
				"revenue_claims[0].currency: required; revenue_claims[0].total_amount: required; revenue_claims[0].transaction_count: required; x: unknown property"},
	} {
		if got := decodeOne(t, gbp, test.item); got.Errors != test.want {
			t.Errorf("%.200s\n got %.400s\nwant %s", test.item, got.Errors, test.want)
		}
	}
}

// The rules of one claim; errors stand without their path's beginning.
func TestBatch_ClaimErrors(t *testing.T) {
	date := func(s string) string { return `"` + s + `"` }
	daily := func(start, end string) string {
		return claim("start_date", date(start), "end_date", date(end), "time_period", `"Daily"`)
	}
	monthly := func(start, end string) string { return claim("start_date", date(start), "end_date", date(end)) }
	for _, test := range []struct{ claim, want string }{
		{claim(), ""},
		{monthly("2024-02-01T00:00:00Z", "2024-02-29T23:59:59.999Z"), ""},
		{monthly("2024-12-01T00:00:00:000", "2024-12-31T23:59:59:999"), ""},
		{monthly("2025-02-01T00:00:00.000999Z", "2025-02-28T23:59:59.9999Z"), ""},
		{monthly("2025-01-31T23:00:00-01:00", "2025-03-01T05:29:59.999+05:30"), ""},
		{monthly("1969-12-01T00:00:00Z", "1969-12-31T23:59:59.9995Z"), ""},
		{daily("2024-02-29T00:00:00Z", "2024-02-29T23:59:59.999Z"), ""},

		{claim("start_date", `"2025-02-30T00:00:00Z"`),
			`start_date: must be a timestamp such as 2025-01-31T23:59:59.999Z, not "2025-02-30T00:00:00Z"`},
		{claim("end_date", `"`+strings.Repeat("9", 80)+`"`),
			`end_date: must be a timestamp such as 2025-01-31T23:59:59.999Z, not "` + strings.Repeat("9", 64) + `"…`},
		{claim("start_date", "null", "end_date", "1"),
			"start_date: required; end_date: must be a string, not a number"},
		{monthly("2025-02-01T00:00:00Z", "2025-02-27T23:59:59.999Z"),
			"end_date: must be 2025-02-28T23:59:59.999Z for a Monthly claim that starts 2025-02-01"},
		{monthly("2024-02-01T00:00:00Z", "2024-02-28T23:59:59.999Z"),
			"end_date: must be 2024-02-29T23:59:59.999Z for a Monthly claim that starts 2024-02-01"},
		{monthly("2025-02-01T00:00:00Z", "2025-03-01T00:00:00Z"),
			"end_date: must be 2025-02-28T23:59:59.999Z for a Monthly claim that starts 2025-02-01"},
		{monthly("2025-02-01T00:00:00Z", "2025-02-28T23:59:59.998999Z"),
			"end_date: must be 2025-02-28T23:59:59.999Z for a Monthly claim that starts 2025-02-01"},
		{monthly("2025-02-01T00:00:00Z", "2024-02-29T23:59:59.999Z"),
			"end_date: must be 2025-02-28T23:59:59.999Z for a Monthly claim that starts 2025-02-01"},
		{daily("2025-02-01T00:00:00Z", "2025-02-02T23:59:59.999Z"),
			"end_date: must be 2025-02-01T23:59:59.999Z for a Daily claim that starts 2025-02-01"},
		{monthly("2025-02-02T00:00:00Z", "2025-02-28T23:59:59.999Z"),
			"start_date: must be the first moment of a month in UTC, such as 2025-02-01T00:00:00.000Z, for a Monthly claim"},
		{monthly("2025-02-01T00:00:00.001Z", "2025-02-28T23:59:59.999Z"),
			"start_date: must be the first moment of a month in UTC, such as 2025-02-01T00:00:00.000Z, for a Monthly claim"},
		{monthly("2025-02-01T00:00:00+01:00", "2025-02-28T23:59:59.999+01:00"),
			"start_date: must be the first moment of a month in UTC, such as 2025-01-01T00:00:00.000Z, for a Monthly claim"},
		{daily("2025-02-03T09:00:00Z", "2025-02-03T23:59:59.999Z"),
			"start_date: must be the first moment of a day in UTC, such as 2025-02-03T00:00:00.000Z, for a Daily claim"},
		{daily("2025-02-01T00:00:00Z", "2025-02-28T23:59:59.999Z"),
			"time_period: must be Monthly, the period that the dates span"},
		{monthly("2025-02-03T00:00:00Z", "2025-02-03T23:59:59.999Z"),
			"time_period: must be Daily, the period that the dates span"},
		{monthly("2025-02-01T00:00:00Z", "2025-02-01T23:59:59.999Z"),
			"time_period: must be Daily, the period that the dates span"},

		{claim("time_period", `"Weekly"`), `time_period: must be Monthly or Daily, not "Weekly"`},
		{claim("time_period", `"monthly"`), `time_period: must be Monthly or Daily, not "monthly"`},
		{claim("time_period", "[]"), "time_period: must be a string, not an array"},
		{claim("currency", `"EUR"`), "currency: must be GBP, the currency agreed with this partner"},
		{claim("currency", `"gbp"`), "currency: must be GBP, the currency agreed with this partner"},
		{claim("currency", `"G\u0042P"`), ""},

		{claim("total_amount", `"12.5"`), "total_amount: must be a JSON number, not a string"},
		{claim("total_amount", "null"), "total_amount: required"},
		{claim("total_amount", "999999999999999.9999"), ""},
		{claim("total_amount", "1.50000e1"), ""},
		{claim("total_amount", "1000000000000000"),
			"total_amount: must have at most 15 digits before the point and 4 behind"},
		{claim("total_amount", "0.00001"), "total_amount: must have at most 15 digits before the point and 4 behind"},
		{claim("total_amount", "1e400000000"),
			"total_amount: must have at most 15 digits before the point and 4 behind"},
		{claim("total_amount", "1e-99999999999999999999"),
			"total_amount: must have at most 15 digits before the point and 4 behind"},
		{claim("total_amount", "0e99999999999999999999"), ""},

		{claim("transaction_count", "true"), "transaction_count: must be a JSON number, not a boolean"},
		{claim("transaction_count", "3.0"), ""},
		{claim("transaction_count", "1e12"), ""},
		{claim("transaction_count", "1.5"), "transaction_count: must be a whole number"},
		{claim("transaction_count", "1e-9999999999"), "transaction_count: must be a whole number"},
		{claim("transaction_count", "1000000000001"), "transaction_count: must be within ±1,000,000,000,000"},
		{claim("transaction_count", "-1e99999999999999999999"), "transaction_count: must be within ±1,000,000,000,000"},
		{claim("transaction_count", strings.Repeat("9", 30)), "transaction_count: must be within ±1,000,000,000,000"},
		{claim("transaction_count", strings.Repeat("9", 30)+".9"), "transaction_count: must be a whole number"},
		{claim("transaction_count", "-150"), "transaction_count: must have the same sign as total_amount"},
		{claim("total_amount", "-0.01"), "transaction_count: must have the same sign as total_amount"},
		{claim("total_amount", "-0.01", "transaction_count", "-1"), ""},
		{claim("total_amount", "-0.0", "transaction_count", "150"), ""},
		{claim("transaction_count", "-0"), ""},
		{claim("total_amount", `"x"`, "transaction_count", "-1"), "total_amount: must be a JSON number, not a string"},
		{claim("time_period", `"\ud800"`), "time_period: must not hold a lone surrogate escape"},
	} {
		want := test.want
		if want != "" {
			want = "revenue_claims[0]." + strings.ReplaceAll(want, "; ", "; revenue_claims[0].")
		}
		if got := decodeOne(t, gbp, claiming(test.claim)); got.Errors != want {
			t.Errorf("%.200s\n got %.400s\nwant %s", test.claim, got.Errors, want)
		}
	}
}

// A partner's own list of entity types decides, and is named, as far as it is short.
func TestBatch_EntityTypes(t *testing.T) {
	p := &intake.Partner{Currency: "GBP", EntityTypes: []string{"Company", "SoleTrader", "Trust"}}
	if got := decodeOne(t, p, item()); got.Errors != "" {
		t.Error(got.Errors)
	}
	if got, want := decodeOne(t, p, item("entity_type", `"Trader"`)).Errors,
		"entity_type: must be one of Company, SoleTrader, Trust"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	p.EntityTypes = strings.Split(strings.Repeat("T,", 25)+"T", ",")
	want := "entity_type: must be one of " + strings.TrimSuffix(strings.Repeat("T, ", 20), ", ") + " and 6 more"
	if got := decodeOne(t, p, item()).Errors; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A non-empty partner_client_id given once is usable for grouping, however wrong.
func TestBatch_Key(t *testing.T) {
	long := strings.Repeat("k", 1000)
	for _, test := range []struct{ item, key string }{
		{item("partner_client_id", `"`+long+`"`), long},
		{item("partner_client_id", `"\u0041"`), "A"},
		{item("partner_client_id", `"a\u0000\t"`), "a\x00\t"},
		{item("partner_client_id", `"\ud800"`), "\xed\xa0\x80"},
		{item("partner_client_id", `"\udfffx"`), "\xed\xbf\xbfx"},
		{item("partner_client_id", `"A"`, "entity_type", "5", "x", "1"), "A"},
		{item("partner_client_id", `""`), ""},
		{item("partner_client_id", "null"), ""},
		{item("partner_client_id", `["A"]`), ""},
		{`{"partner_client_id":"A","partner_client_id":"A"}`, ""},
		{`{"partner_client_id":null,"partner_client_id":"A"}`, ""},
		{`"A"`, ""},
		{"{}", ""},
	} {
		if got := decodeOne(t, gbp, test.item); got.Key != test.key {
			t.Errorf("%.100s: key %.100q, want %.100q", test.item, got.Key, test.key)
		}
	}
}

// The texts of a batch's errors stay within a few times the largest body.
func TestBatch_BoundedErrors(t *testing.T) {
	body := []byte("[" + times(500, claiming(times(1000, "{}"))) + "," + item("x", "1") + "]")
	items, err := decode.Batch(body, gbp, now)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for i := range items {
		total += len(items[i].Errors)
	}
	if total > 40<<20 {
		t.Errorf("%d bytes of errors for a body of %d", total, len(body))
	}
	if first := items[0].Errors; strings.Count(first, ": required") != 6000 {
		t.Errorf("the first item names %d of 6000 errors", strings.Count(first, ": required"))
	}
	if late := items[499].Errors; strings.Count(late, ": required") != 10 ||
		!strings.HasSuffix(late, "; and 5990 more errors") {
		t.Errorf("a late item says %.1000s", late)
	}
	if last := items[500].Errors; last != "x: unknown property" {
		t.Errorf("the last item says %s", last)
	}
}
