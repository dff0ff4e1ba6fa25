// Package safety names settings of servers that would make Intake's answers untrue.
package safety

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Breach is an unsafe setting. A front or worker that finds one refuses to run.
type Breach struct {
	Setting string // as in "fsync in Postgres"
	Is      string // its value
	Because string // what may go wrong with it
	Do      string // the cure
}

// Error implements error.
func (b *Breach) Error() string {
	return fmt.Sprintf("unsafe: %s is %s: %s; %s, or go on with --allow-unsafe", b.Setting, b.Is, b.Because, b.Do)
}

// Breaches are several breaches, none of them twice.
type Breaches []*Breach

// Error implements error. It returns a line for each breach.
func (b Breaches) Error() string {
	lines := make([]string, len(b))
	for i, breach := range b {
		lines[i] = breach.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the breaches, for errors.As.
func (b Breaches) Unwrap() []error {
	errs := make([]error, len(b))
	for i, breach := range b {
		errs[i] = breach
	}
	return errs
}

// Find returns the breaches in err, and what else it holds.
func Find(err error) (breaches Breaches, others error) {
	var breach *Breach
	switch many, isMany := err.(interface{ Unwrap() []error }); {
	case err == nil:
	case isMany && errors.As(err, &breach):
		var rest []error
		for _, one := range many.Unwrap() {
			found, other := Find(one)
			rest = append(rest, other)
			for _, b := range found {
				if !slices.ContainsFunc(breaches, func(known *Breach) bool { return *known == *b }) {
					breaches = append(breaches, b)
				}
			}
		}
		others = errors.Join(rest...)
	case errors.As(err, &breach):
		if inner := errors.Unwrap(err); inner != nil {
			return Find(inner)
		}
		breaches = Breaches{breach}
	default:
		others = err
	}
	return breaches, others
}

// Cause returns the [Breaches] that ended ctx, or nil if it goes on or ended for another reason.
func Cause(ctx context.Context) error {
	if breaches, _ := Find(context.Cause(ctx)); len(breaches) > 0 {
		return breaches
	}
	return nil
}
