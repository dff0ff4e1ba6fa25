package sink

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
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

// reactionTo decides by SQLSTATE. Classes 22 (data exception) and 23 (integrity
// constraint violation) are about the data; everything else, and everything
// that is not Postgres's answer, is about the server, the connection or the
// schema, and fails nobody.
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
	return tryLater
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
