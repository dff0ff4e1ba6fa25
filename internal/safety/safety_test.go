package safety_test

import (
	"errors"
	"fmt"
	"testing"

	"intake/internal/safety"
)

// All breaches in an error are found, however deep and each once, and what else
// is in it.
func TestFind(t *testing.T) {
	t.Parallel()
	one := &safety.Breach{Setting: "one", Is: "off", Because: "records may be lost", Do: "set it"}
	two := &safety.Breach{Setting: "two", Is: "off", Because: "records may be lost", Do: "set it"}
	again := *one
	away := errors.New("away")
	for name, test := range map[string]struct {
		err      error
		breaches string
		others   string
	}{
		"nothing": {nil, "", ""},
		"another": {fmt.Errorf("ask: %w", away), "", "ask: away"},
		"one":     {fmt.Errorf("ask: %w", one), one.Error(), ""},
		"several": {errors.Join(one, errors.Join(two, &again)), one.Error() + "\n" + two.Error(), ""},
		"found before": {errors.Join(safety.Breaches{one}, safety.Breaches{one, two}), one.Error() + "\n" + two.Error(),
			""},
		"mixed": {fmt.Errorf("ask: %w", errors.Join(one, away)), one.Error(), "away"},
	} {
		breaches, others := safety.Find(test.err)
		said := ""
		if others != nil {
			said = others.Error()
		}
		if breaches.Error() != test.breaches || said != test.others {
			t.Errorf("%s: %q and %q, want %q and %q", name, breaches, said, test.breaches, test.others)
		}
	}
}
