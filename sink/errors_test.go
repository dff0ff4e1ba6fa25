package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
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
		{&pgconn.PgError{Code: "23505", ConstraintName: "batch_status_20261123_pkey", TableName: "batch_status_20261123"}, tryAgain},
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
