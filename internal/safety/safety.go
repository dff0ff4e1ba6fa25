// Package safety names settings of servers with which what Intake answers would
// not be true.
package safety

import "fmt"

// A Breach is such a setting. A front or worker that finds one refuses to go on.
type Breach struct {
	Setting string // as in "fsync in Postgres"
	Is      string // what it is
	Because string // what would be untrue with it
	Do      string // how to mend it
}

// Error implements error.
func (b *Breach) Error() string {
	return fmt.Sprintf("unsafe: %s is %s: %s; %s, or go on with --allow-unsafe", b.Setting, b.Is, b.Because, b.Do)
}
