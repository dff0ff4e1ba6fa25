package decode_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"intake"
	"intake/internal/decode"
)

// What RFC 8259 says of a JSON text, section by section: every kind of text that
// it allows is JSON here, whatever becomes of the item; every other kind is
// refused, with the byte at which it stops being JSON. In a text, § stands for
// that place, and is not part of it.
var rfc8259 = []struct {
	section string
	valid   []string
	invalid []string
}{
	{"2 Grammar: structural characters and white space", []string{
		"[1]", " [1]", "\t\n\r [\t1\n,\r2 ] \t\r\n", `[{"a":1,"b":[2,{}]}]`, "[ [ ] , { } ]", `[{ "a" : 1 }]`,
	}, []string{
		"[1§\u00a0]", "[§\f1]", "[§\v1]", "[§\u2028 1]", "[1§;2]", "[1§", "[§", "[1§}", "[{§]", `[{"a":1§]`, "[1]§]",
		"[1]§,", "[1] §[2]", "[1]§x", "[1]§\x00", "[§,1]", "[1,§,2]", "[1,§]", "[1 §2]", "[§/* */1]", "[1]§//",
		"[§#\n1]", "§",
	}},
	{"2 Grammar: any value at the top, of which the contract takes arrays", []string{"[null]"}, []string{
		"§null", "§1", `§"a"`, "§{}", "§true", " §{}",
	}},
	{"3 Values", []string{
		"[true]", "[false]", "[null]", "[1]", `["a"]`, "[[]]", "[{}]", "[true,false,null]",
	}, []string{
		"[§True]", "[§TRUE]", "[§nul]", "[null§l]", "[§undefined]", "[§NaN]", "[§Infinity]", "[-§Infinity]", "[§tru]",
		"[§t]", "[true§false]", "[§'a']", "[§a]", "[§`a`]",
	}},
	{"4 Objects", []string{
		"[{}]", `[{"":1}]`, `[{"a":1,"a":2}]`, `[{"\u0061":1,"a":2}]`, `[{"a":{"b":{}}}]`, "[{\"a\"\n:\t1}]",
		`[{"\u0000":1}]`, `[{"\ud800":1}]`,
	}, []string{
		`[{§a:1}]`, `[{§'a':1}]`, `[{"a"§}]`, `[{"a"§,1}]`, `[{"a" §1}]`, `[{"a":§}]`, `[{"a":1,§}]`,
		`[{"a":1 §"b":2}]`, `[{§,}]`, `[{§1:2}]`, `[{"a"§=1}]`, `[{"a":§:1}]`, `[{"a":1§`, `[{"a"§`, `[{"a":§`,
		`[{§null:1}]`, `[{"a":1§;}]`,
	}},
	{"5 Arrays", []string{
		"[[]]", "[[[]],[]]", "[1,\"a\",null,{}]", "[[1],[2,3]]",
	}, []string{
		"[[1,§]]", "[[§,1]]", "[[1 §2]]", "[[1§}]", "[[1]§", "[[§", "[1,[2§", "[[1,§,2]]",
	}},
	{"6 Numbers", []string{
		"[0]", "[-0]", "[0.0]", "[-0.0e0]", "[1]", "[-1]", "[10]", "[1.5]", "[1.50000]", "[1e5]", "[1E5]", "[1e+5]",
		"[1e-5]", "[1.5E+05]", "[0e0]", "[0e+00]", "[123456789012345678901234567890]", "[1e400000000]",
		"[1e-400000000]", "[0." + strings.Repeat("0", 400) + "1]",
	}, []string{
		"[0§1]", "[-0§1]", "[0§0]", "[§+1]", "[§.5]", "[-§.5]", "[1.§]", "[1.§e5]", "[1e§]", "[1e+§]", "[1e-§]",
		"[1e5§.5]", "[-§]", "[-§-1]", "[-§a]", "[0§x10]", "[1§_000]", "[1e5§e5]", "[1.2§.3]", "[1,§]", "[0§b1]",
		"[1§a]", "[1§n]", "[§\uff11]", "[§∞]",
	}},
	{"7 Strings", []string{
		`[""]`, `["a"]`, `["\"\\\/\b\f\n\r\t"]`, `["\u0041\u00e9\u20AC\uD83D\uDE00"]`, `["é€😀"]`, "[\"\u007f\"]",
		"[\"\u2028\u2029\"]", `["\u0000"]`, `["\ud800"]`, `["\udc00"]`, `["\ud800\u0041"]`, `["\udc00\ud800"]`,
		"[\"\ufeff\"]", "[\"\uffff\U0010ffff\"]", `["/"]`,
	}, []string{
		`["§`, `["a§`, `["a\"§`, "[\"§\n\"]", "[\"a§\t\"]", "[\"§\x00\"]", "[\"§\x1f\"]", `["§\a"]`, `["§\x41"]`,
		`["§\'"]`, `["§\u"]`, `["§\u12"]`, `["§\u123g"]`, `["\uD83D§\u"]`, `["§\U0041"]`, `["\§`, `["§\u004`,
		`["a"§"b"]`, `["a"§b]`, `["§\ "]`, `["§\0"]`, `["§\u+041"]`,
	}},
	{"8.1 Character encoding: UTF-8, and no byte order mark", []string{
		"[\"\u0080\u07ff\u0800\uffff\U00010000\"]",
	}, []string{
		"§\ufeff[1]", "[\"§\xff\"]", "[\"§\xc0\x80\"]", "[\"§\xed\xa0\x80\"]", "[\"§\xf4\x90\x80\x80\"]",
		"[\"§\xe2\x82\"]", "[\"§\x80\"]", "[\"§\xf8\x88\x80\x80\x80\"]", "§\xff\xfe[\x001\x00]\x00", "[1]§\xff",
		"[\"a§\xc3",
	}},
	{"8.2 Unicode: escapes of lone surrogates are JSON", []string{`["\uDEAD"]`, `[{"partner_client_id":"\uDEAD"}]`},
		nil},
	{"9 Parsers: depth", []string{
		strings.Repeat("[", 32) + strings.Repeat("]", 32), strings.Repeat(`[{"a":`, 16) + "1" + strings.Repeat("}]",
			16),
	}, []string{
		strings.Repeat("[", 32) + "§[" + strings.Repeat("]", 33), strings.Repeat("[", 32) + "§[" + strings.Repeat("[",
			100_000), strings.Repeat(`[{"a":`, 16) + "§[1]" + strings.Repeat("}]", 16),
	}},
}

func TestRFC8259(t *testing.T) {
	t.Parallel()
	partner := &intake.Partner{ID: 1, Name: "acme", Currency: "GBP"}
	for _, section := range rfc8259 {
		t.Run(section.section, func(t *testing.T) {
			for _, text := range section.valid {
				items, err := decode.Batch([]byte(text), partner, time.Now())
				if err != nil {
					t.Errorf("%.80q is refused: %v", text, err)
				}
				if !json.Valid([]byte(text)) {
					t.Errorf("%.80q is no JSON to others", text)
				}
				for i := range items {
					if items[i].Errors == "" {
						t.Errorf("%.80q: item %d is valid", text, i)
					}
				}
			}
			for _, marked := range section.invalid {
				before, after, ok := strings.Cut(marked, "§")
				text := before + after
				_, err := decode.Batch([]byte(text), partner, time.Now())
				syntax, is := errors.AsType[*decode.SyntaxError](err)
				if !is {
					t.Errorf("%.80q: %v", text, err)
					continue
				}
				if !ok {
					t.Errorf("%.80q is at byte %d: %v", text, syntax.Offset, err)
				} else if syntax.Offset != len(before) {
					t.Errorf("%.80q is refused at byte %d, not %d: %v", text, syntax.Offset, len(before), err)
				}
				if !strings.Contains(err.Error(), fmt.Sprintf("at byte %d", syntax.Offset)) {
					t.Errorf("%.80q: %v", text, err)
				}
			}
		})
	}
}
