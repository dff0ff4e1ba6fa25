package sink

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"intake"
)

// A reaction is what to do about an error of a save.
type reaction int

const (
	// tryLater: the server cannot save now, and no item is to blame.
	tryLater reaction = iota
	// tryAgain: another transaction finished one of the chunks first, so that the next
	// attempt reads its outcome; or the ids were taken.
	tryAgain
	// halve: the data of an item is to blame.
	halve
)

const (
	idKey           = "partner_clients_pkey"
	claimsKey       = "client_claims_pkey"
	uniqueViolation = "23505"
)

// errDuplicateKey reports that a gathering holds a key twice, so that the optimistic
// COPY would fail.
var errDuplicateKey = errors.New("gathering has a duplicate key")

// raised is the SQLSTATE of a trigger's RAISE EXCEPTION that names no other.
const raised = "P0001"

// reactionTo decides by SQLSTATE. Classes 22 (data exception) and 23 (integrity
// constraint violation) are about the data, and so is an error that a trigger raises.
// All other errors are about the server, the connection or the schema, and fail no item.
func reactionTo(err error) reaction {
	var answer *pgconn.PgError
	if errors.Is(err, errDuplicateKey) {
		return tryAgain
	}
	if !errors.As(err, &answer) {
		return tryLater
	}
	switch ofStatus := strings.HasPrefix(answer.TableName, "batch_status"); {
	case ofStatus && answer.Code == uniqueViolation, idsTaken(err):
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

// mark wraps [intake.ErrUnsavable] around an error, unless Postgres is unavailable.
func mark(err error) error {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) || isUnavailable(answer) {
		return err
	}
	return fmt.Errorf("%w (SQLSTATE %s): %w", intake.ErrUnsavable, answer.Code, err)
}

// isUnavailable reports whether Postgres can save nothing at present: it cannot be
// reached, refuses or ends connections, lacks resources (classes 08 and 53, 57P01 to
// 57P05), or is read-only (25006).
func isUnavailable(answer *pgconn.PgError) bool {
	switch severity := answer.SeverityUnlocalized; {
	case severity == "FATAL" || severity == "PANIC", strings.HasPrefix(answer.Code, "57P"), answer.Code == "25006":
		return true
	}
	return answer.Code[:2] == "08" || answer.Code[:2] == "53"
}

// idsTaken reports whether err says that other clients have the same ids.
func idsTaken(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && (answer.ConstraintName == idKey || answer.ConstraintName == claimsKey)
}

// timedOut reports whether err says that a statement exceeded statement_timeout.
func timedOut(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && answer.Code == "57014"
}

// refusal returns the reason that the partner gets. It leaves out Postgres's detail,
// which quotes whole rows.
func refusal(err error) string {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return fmt.Sprintf("%s (SQLSTATE %s)", answer.Message, answer.Code)
	}
	return err.Error()
}
