package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"intake"
)

// What is done about an error hangs on what it is about: the data, another
// transaction that was first, or the server.
func TestReactionTo(t *testing.T) {
	for _, c := range []struct {
		err  error
		want reaction
	}{
		{&pgconn.PgError{Code: "22003"}, halve},
		{&pgconn.PgError{Code: "23514", TableName: "revenue_claims"}, halve},
		{fmt.Errorf("copy: %w", &pgconn.PgError{Code: "22P05"}), halve},
		{&pgconn.PgError{Code: "P0001"}, halve},
		{&pgconn.PgError{Code: "23505", ConstraintName: "batch_status_20261123_pkey",
			TableName: "batch_status_20261123"}, tryAgain},
		{&pgconn.PgError{Code: "23514", TableName: "batch_status"}, tryLater},
		{&pgconn.PgError{Code: "40001"}, tryLater},
		{&pgconn.PgError{Code: "40P01"}, tryLater},
		{&pgconn.PgError{Code: "53100"}, tryLater},
		{&pgconn.PgError{Code: "53300"}, tryLater},
		{&pgconn.PgError{Code: "57P01"}, tryLater},
		{&pgconn.PgError{Code: "25006"}, tryLater},
		{&pgconn.PgError{Code: "42P01"}, tryLater},
		{io.ErrUnexpectedEOF, tryLater},
		{context.DeadlineExceeded, tryLater},
		{errors.New("closed"), tryLater},
	} {
		if got := reactionTo(c.err); got != c.want {
			t.Errorf("%v: reaction %d, want %d", c.err, got, c.want)
		}
	}
}

// A message may be given up only for what Postgres says of it while it saves others.
func TestMark(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{&pgconn.PgError{Code: "XX002"}, true},
		{&pgconn.PgError{Code: "P0001"}, true},
		{&pgconn.PgError{Code: "54000"}, true},
		{&pgconn.PgError{Code: "42501"}, true},
		{&pgconn.PgError{Code: "57014"}, true}, // a statement that takes too long each time
		{fmt.Errorf("copy: %w", &pgconn.PgError{Code: "23514", TableName: "batch_status"}), true},
		{&pgconn.PgError{Code: "08006"}, false},
		{&pgconn.PgError{Code: "25006"}, false},
		{&pgconn.PgError{Code: "53100"}, false},
		{&pgconn.PgError{Code: "57P01"}, false},
		{&pgconn.PgError{Code: "57P03"}, false},
		{&pgconn.PgError{Code: "28P01", SeverityUnlocalized: "FATAL"}, false},
		{&intake.UnknownPartnerError{ID: 1, Name: "acme"}, false},
		{io.ErrUnexpectedEOF, false},
		{context.DeadlineExceeded, false},
	} {
		marked := mark(c.err)
		if errors.Is(marked, intake.ErrUnsavable) != c.want || !errors.Is(marked, c.err) {
			t.Errorf("%v: marked %v, want it unsavable: %v", c.err, marked, c.want)
		}
	}
}
