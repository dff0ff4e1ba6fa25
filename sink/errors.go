package sink

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"intake"
)

// reaction is what to do about an error of a save.
type reaction int

const (
	// tryLater: the server can't save now, and nobody's data is to blame.
	tryLater reaction = iota
	// tryAgain: another transaction finished one of the chunks first, and at the
	// next try it is answered from its status; or ids have to be taken anew.
	tryAgain
	// halve: some item's data is to blame.
	halve
)

const (
	idKey           = "partner_clients_pkey"
	uniqueViolation = "23505"
)

// errNotBold is of a gathering that can't be saved boldly.
var errNotBold = errors.New("a key is there twice")

// raised is what RAISE EXCEPTION has in a trigger, if it names nothing else.
const raised = "P0001"

// reactionTo decides by SQLSTATE. Classes 22 (data exception) and 23 (integrity
// constraint violation) are about the data, and so is what a trigger raises;
// everything else, and everything that is not Postgres's answer, is about the
// server, the connection or the schema, and fails nobody.
func reactionTo(err error) reaction {
	var answer *pgconn.PgError
	if errors.Is(err, errNotBold) {
		return tryAgain
	}
	if !errors.As(err, &answer) {
		return tryLater
	}
	switch ofStatus := strings.HasPrefix(answer.TableName, "batch_status"); {
	case ofStatus && answer.Code == uniqueViolation, answer.ConstraintName == idKey:
		return tryAgain
	case ofStatus:
		return tryLater
	}
	switch answer.Code[:2] {
	case "22", "23":
		return halve
	}
	if answer.Code == raised {
		return halve
	}
	return tryLater
}

// mark has an error wrap intake.ErrUnsavable, unless Postgres is away.
func mark(err error) error {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) || isAway(answer) {
		return err
	}
	return fmt.Errorf("%w (SQLSTATE %s): %w", intake.ErrUnsavable, answer.Code, err)
}

// isAway reports whether an answer says that Postgres can save nothing at
// present, whatever it is: it can't be reached, refuses or ends connections, lacks
// resources (classes 08 and 53, 57P01 to 57P05) or is read-only (25006).
func isAway(answer *pgconn.PgError) bool {
	switch severity := answer.SeverityUnlocalized; {
	case severity == "FATAL" || severity == "PANIC", strings.HasPrefix(answer.Code, "57P"), answer.Code == "25006":
		return true
	}
	return answer.Code[:2] == "08" || answer.Code[:2] == "53"
}

// idsTaken tells of an error whether others have been given the same ids.
func idsTaken(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && answer.ConstraintName == idKey
}

// timedOut tells of an error whether a statement took longer than it may.
func timedOut(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && answer.Code == "57014"
}

// refusal is the reason that a partner is told. Postgres's detail is left out:
// it quotes whole rows.
func refusal(err error) string {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return fmt.Sprintf("%s (SQLSTATE %s)", answer.Message, answer.Code)
	}
	return err.Error()
}
