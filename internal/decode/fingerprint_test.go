package decode_test

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"intake"
	"intake/internal/decode"
)

func fingerprint(text string) intake.Fingerprint { return decode.Fingerprint([]byte(text)) }

func TestFingerprint(t *testing.T) {
	same := [][]string{
		{"1", "1.0", "1e0", "10e-1", "0.1E+1", "1.000", "0.0001e4", "100000000000000000000e-20"},
		{"0", "-0", "0.0", "0e5", "-0.00e-99999999999999999999"},
		{"-1.5", "-15e-1", "-1.50"},
		{"10", "1e1", "1e+01"},
		{"1e400000000", "10e399999999", "0.1e400000001"},
		{"1e1000000000", "0.1e1000000001", "10e999999999"},
		{"1e1000000001", "0.1e1000000002", "10e1000000000"},
		{"1e99999999999999999999", "10e99999999999999999998", "0.1e100000000000000000000", "1e+0099999999999999999999"},
		{"1e-100000000000000000000", "0.1e-99999999999999999999", "10e-100000000000000000001"},
		{"1e999999999999999", "0.01e1000000000000001"},
		{"12345678901234567890123", "1.2345678901234567890123e22", "12345678901234567890123.0"},
		{"9999999999999999999", "9999999999999999999.0"},
		{`"A"`, `"\u0041"`},
		{`"\u00e9/"`, `"é\/"`, `"\u00E9/"`},
		{`"😀"`, `"\ud83d\ude00"`},
		{`"\b\f\n\r\t\"\\"`, `"\u0008\u000c\u000a\u000D\u0009\u0022\u005c"`},
		{`[1,2]`, " [ 1.0 ,\n2 ] "},
		{`{"a":1,"b":[]}`, `{"b":[ ],"a":1}`, `{ "\u0062":[], "a":1e0 }`},
		{`{"a":{"y":1,"x":{"d":1,"c":2}},"":0}`, `{"":0,"a":{"x":{"c":2,"d":1},"y":1}}`},
		{`{"a":1,"a":2,"0":3}`, `{"0":3,"a":1,"a":2}`},
	}
	differ := []string{
		"null", "true", "false", "0", "1", "-1", "10", "0.1", "1e99999999999999999999", "-1e99999999999999999999",
		"1e99999999999999999998", "1e-99999999999999999999",
		"12345678901234567890123", "12345678901234567890124", "0.12345678901234567890123", "9007199254740993",
		"9007199254740992",
		`""`, `"0"`, `"1"`, `"null"`, `"a"`, `"A"`, `"\u0000"`, `"\ufffd"`, `"\ud800"`, `"\ud801"`, `"\udc00"`,
		`"\udc00\ud800"`, `"\ud800x\udc00"`, `"𐀀"`, `"e\u0301"`, `"é"`,
		"[]", "[[]]", "[[],[]]", "[[[]]]", "[null]", "[1,2]", "[2,1]", "[12]", `["1,2"]`, `["1","2"]`, `["12"]`,
		`["1",["2"]]`,
		"{}", "[{}]", `{"a":null}`, `{"a":1}`, `{"a":1.5}`, `{"a":"1"}`, `{"b":1}`, `{"a":1,"b":1}`, `{"a":{"b":1}}`,
		`["a",1]`, `[["a",1]]`,
		`{"a":1,"a":2}`, `{"a":2,"a":1}`, `{"a":1,"a":1}`, `{"":1}`, `{"a":[],"b":{}}`, `{"a":{},"b":[]}`,
	}
	seen := map[intake.Fingerprint]string{}
	for _, text := range differ {
		if other, ok := seen[fingerprint(text)]; ok {
			t.Errorf("%s and %s have the same fingerprint", text, other)
		}
		seen[fingerprint(text)] = text
	}
	for _, group := range same {
		for _, text := range group[1:] {
			if fingerprint(text) != fingerprint(group[0]) {
				t.Errorf("%s and %s have different fingerprints", group[0], text)
			}
		}
	}
}

// Fingerprints are stored: those of today must be those of tomorrow.
func TestFingerprint_NeverChanges(t *testing.T) {
	for text, form := range map[string]string{
		"null": "intake item 1\nn",
		`{"partner_client_id":"A","entity_type":"SoleTrader","revenue_claims":[{"x":[true,false,null,1e-99999999999],"total_amount":-1.50}]}`: "intake item 1\n{" +
			"\"\x0bentity_type\"\x0aSoleTrader" + "\"\x11partner_client_id\"\x01A" +
			"\"\x0erevenue_claims[{" + "\"\x0ctotal_amount-\x0f\x01" + "\"\x01x[tfnP\x011\x0c-99999999999]" + "}]}",
	} {
		sum := sha256.Sum256([]byte(form))
		if got, want := fingerprint(text), intake.Fingerprint(sum[:16]); got != want {
			t.Errorf("%s: got %x, want %x", text, got, want)
		}
	}
}

// Numbers and objects of a body's size are done in a moment, not in minutes.
func TestFingerprint_Huge(t *testing.T) {
	const n = 4 << 20
	var members strings.Builder
	for i := range 300_000 {
		fmt.Fprintf(&members, `,"%d":0`, i*7_919%300_000)
	}
	for _, text := range []string{
		strings.Repeat("9", n),
		"0." + strings.Repeat("0", n) + "1e" + fmt.Sprint(n+1),
		"1e" + strings.Repeat("9", n),
		"-1" + strings.Repeat("0", n) + "e-1" + strings.Repeat("0", n),
		`"` + strings.Repeat(`\u0041`, n/6) + `"`,
		"{" + members.String()[1:] + "}",
		strings.Repeat(`{"b":0,"a":`, 30) + "{" + members.String()[1:] + "}" + strings.Repeat("}", 30),
	} {
		fingerprint(text)
	}
	if fingerprint("0."+strings.Repeat("0", n)+"1e"+fmt.Sprint(n+1)) != fingerprint("1") {
		t.Error("0.00…1e… is 1")
	}
}

// A model of "the same data" that is slow and plain: package json reads,
// big.Rat compares.
type modelMember struct {
	name  string
	value any
}

func modelOf(d *json.Decoder) any {
	token, err := d.Token()
	if err != nil {
		panic(err)
	}
	switch token {
	case json.Delim('['):
		elements := []any{}
		for d.More() {
			elements = append(elements, modelOf(d))
		}
		d.Token()
		return elements
	case json.Delim('{'):
		members := []modelMember{}
		for d.More() {
			name, _ := d.Token()
			members = append(members, modelMember{name.(string), modelOf(d)})
		}
		d.Token()
		slices.SortStableFunc(members, func(a, b modelMember) int { return cmp.Compare(a.name, b.name) })
		return members
	}
	if n, ok := token.(json.Number); ok {
		value, _ := new(big.Rat).SetString(n.String())
		return value
	}
	return token
}

func sameData(a, b any) bool {
	switch a := a.(type) {
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, sameData)
	case []modelMember:
		b, ok := b.([]modelMember)
		return ok && slices.EqualFunc(a, b, func(x, y modelMember) bool {
			return x.name == y.name &&
				sameData(x.value, y.value)
		})
	case *big.Rat:
		b, ok := b.(*big.Rat)
		return ok && a.Cmp(b) == 0
	}
	return a == b
}

func model(text []byte) any {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return modelOf(d)
}

// spelling draws one of the many texts of one of few values.
func spelling(depth int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		space := rapid.SampledFrom([]string{"", "", " ", "\n\t"}).Draw(t, "space")
		kinds := 4
		if depth > 0 {
			kinds = 6
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return space + rapid.SampledFrom([]string{"null", "true", "false"}).Draw(t, "word")
		case 1, 2:
			return space + numberSpelling.Draw(t, "number")
		case 3:
			return space + stringSpelling.Draw(t, "string")
		case 4:
			elements := rapid.SliceOfN(spelling(depth-1), 0, 2).Draw(t, "elements")
			return "[" + strings.Join(elements, space+",") + space + "]"
		}
		var members []string
		for range rapid.IntRange(0, 3).Draw(t, "members") {
			members = append(members, stringSpelling.Draw(t, "name")+space+":"+spelling(depth-1).Draw(t, "value"))
		}
		return space + "{" + strings.Join(members, ",") + "}"
	})
}

var (
	stringSpelling = rapid.SampledFrom([]string{`""`, `"a"`, `"\u0061"`, `"b"`, `"ab"`, `"é"`, `"\u00e9"`, `"😀"`,
		`"\uD83D\uDE00"`, `"a\/"`, `"a/"`})
	numberSpelling = rapid.StringMatching(`-?(0|[12]0{0,3}|[19]{18,21})(\.[01]{1,3}|\.0{1,20}1)?([eE][+-]?0?[0-4])?`)
)

func TestFingerprint_IsEqualityOfData(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := spelling(2).Draw(t, "a"), spelling(2).Draw(t, "b")
		if got, want := fingerprint(a) == fingerprint(b), sameData(model([]byte(a)), model([]byte(b))); got != want {
			t.Fatalf("same fingerprint: %v, same data: %v", got, want)
		}
	})
}

// The same members in another order are the same data.
func TestFingerprint_OrderOfMembers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringN(0, 3, -1), 0, 40, rapid.ID).Draw(t, "names")
		members := make([]string, len(names))
		for i, name := range names {
			text, _ := json.Marshal(name)
			members[i] = string(text) + ":" + spelling(1).Draw(t, "value")
		}
		before := fingerprint("{" + strings.Join(members, ",") + "}")
		members = rapid.Permutation(members).Draw(t, "members")
		if fingerprint("{"+strings.Join(members, ",")+"}") != before {
			t.Fatal("another fingerprint")
		}
	})
}

func FuzzFingerprint(f *testing.F) {
	f.Add([]byte(`{"a":1.0,"b":[null]}`), []byte(`{"b":[null],"\u0061":1}`))
	f.Add([]byte(`[1e3,-0]`), []byte(`[1000,0]`))
	f.Add([]byte(`{"a":{"c":1,"b":2},"a":"\ud800"}`), []byte(`"\ud83d\ude00"`))
	longExponent := regexp.MustCompile(`[eE][+-]?[0-9]{4,}`)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		for _, text := range [][]byte{a, b} {
			if depth := bytes.Count(text, []byte("[")) + bytes.Count(text, []byte("{")); depth > intake.MaxDepth {
				return
			}
			if !utf8.Valid(text) || !json.Valid(text) {
				return
			}
			// The model takes too long for the one, and cannot distinguish the other.
			if longExponent.Match(text) || strings.Contains(fmt.Sprint(model(text)), "\uFFFD") {
				return
			}
		}
		if got, want := decode.Fingerprint(a) == decode.Fingerprint(b), sameData(model(a), model(b)); got != want {
			t.Fatalf("%q and %q: same fingerprint: %v, same data: %v", a, b, got, want)
		}
	})
}
