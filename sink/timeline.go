package sink

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// timelineParts identify the history of a database: the system identifier of the
// cluster, the timeline of its write-ahead log, the database, the start of the server,
// and the epoch, which an operator can change. The start is needed because restoring a
// data directory from a snapshot changes nothing else, but requires a restart.
var timelineParts = []string{
	"(select system_identifier from pg_control_system())",
	"ltrim(substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), '0')",
	"(select oid from pg_database where datname = current_database())",
	"to_hex((extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint)",
	"(select left(name::text, 8) from epoch)",
}

// Timeline returns the name of the history of the database that the store is connected
// to. If the name changes, records that were known before may be gone: Postgres was
// restored to an earlier point, or has failed over.
func (s *Store) Timeline(ctx context.Context) (string, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Release()
	err = readTimeline(ctx, conn.Conn())
	return sessionOf(conn.Conn()).timeline, err
}

// readTimeline reads the name of a connection's timeline. Everything that the connection
// saves belongs to it: the timeline of a primary never changes, and the connection ends
// with its server.
func readTimeline(ctx context.Context, conn *pgx.Conn) (err error) {
	session := sessionOf(conn)
	if session.timelineQuery == "" {
		if session.timelineQuery, err = findTimelineQuery(ctx, conn); err != nil {
			return fmt.Errorf("read the timeline of Postgres: %w", err)
		}
	}
	if err := conn.QueryRow(ctx, session.timelineQuery).Scan(&session.timeline); err != nil {
		if isRefusal(err) {
			session.timelineQuery = "" // a right was revoked
		}
		return fmt.Errorf("read the timeline of Postgres: %w", err)
	}
	return nil
}

// findTimelineQuery returns a query for those parts of the name that the server allows.
// Some hosted services refuse the functions of the write-ahead log.
func findTimelineQuery(ctx context.Context, conn *pgx.Conn) (string, error) {
	nameOf := func(parts []string) string { return "select concat_ws('-', " + strings.Join(parts, ", ") + ")" }
	all := nameOf(timelineParts)
	err := conn.QueryRow(ctx, all).Scan(new(string))
	if !isRefusal(err) {
		return all, err
	}
	parts, err := allowedParts(ctx, conn)
	return nameOf(parts), err
}

func allowedParts(ctx context.Context, conn *pgx.Conn) (parts []string, err error) {
	for _, part := range timelineParts {
		switch err := conn.QueryRow(ctx, "select "+part+"::text").Scan(new(*string)); {
		case err == nil:
			parts = append(parts, part)
		case !isRefusal(err):
			return nil, err
		}
	}
	return parts, nil
}

// isRefusal reports whether the server answers a query with this error each time:
// a right or the function is missing (class 42), it is not supported (0A), or not
// with the server's settings (55000).
func isRefusal(err error) bool {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) {
		return false
	}
	return strings.HasPrefix(answer.Code, "42") || strings.HasPrefix(answer.Code, "0A") || answer.Code == "55000"
}

// NewEpoch renames the history of the database at url. Everything in the seen set is
// ignored from then on.
func NewEpoch(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "update epoch set name = gen_random_uuid()"); err != nil {
		return fmt.Errorf("begin a new epoch: %w", err)
	}
	return nil
}
