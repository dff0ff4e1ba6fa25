package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"intake/internal/failpoint"
)

// With a synchronous standby, a commit waits until the standby has it. The wait can be
// cancelled, and it ends when the server stops, but the transaction is not undone then:
// it becomes visible, and is lost if the standby is promoted. Therefore
//
//   - no cancel request is sent while records are being committed,
//   - a commit whose wait was cancelled nevertheless is an error,
//   - a read of what is answered as saved waits for the standby too.
//
// Other commits, such as that of a reservation, may be cancelled by a deadline, because
// reads of what they have written wait as well.

// ErrStandbyAway is returned while commits wait for a synchronous standby.
var ErrStandbyAway = errors.New("commits wait for a synchronous standby of Postgres, and nothing is Completed meanwhile: " +
	"start one of synchronous_standby_names, or change that setting")

// errNotReplicated reports a transaction that is committed and yet may be lost.
var errNotReplicated = errors.New("the wait for the synchronous standby was cancelled")

// awaitStandby is a column for queries whose rows are answered as saved. With a
// synchronous standby, the first row writes to the log of Postgres, so the transaction
// ends only when the standby has everything that was committed before. A transaction id
// alone (pg_current_xact_id) would not do: a transaction that has logged nothing does not
// wait.
const awaitStandby = `(
	select pg_logical_emit_message(true, 'intake', '')
	 where current_setting('synchronous_standby_names') <> '')`

// A session is the state of a connection to Postgres.
type session struct {
	// timeline is the name of the database's history that timelineQuery returned last.
	timeline, timelineQuery string
	// committing is set while records are being committed, and stays set if that fails.
	// No cancel request may be sent then.
	committing atomic.Bool
	// notReplicated is set by the notice that the wait for the standby was cancelled.
	notReplicated bool
}

// sessionKey is the key of the session in the connection's custom data.
const sessionKey = "intake session"

func sessionOf(conn *pgx.Conn) *session {
	s, _ := conn.PgConn().CustomData()[sessionKey].(*session)
	return s
}

// newSession adds a session to the connection that is made with config. pgx dials with
// the same config to send cancel requests.
func newSession(_ context.Context, config *pgx.ConnConfig) error {
	s, dial := new(session), config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if s.committing.Load() {
			return nil, errors.New("a commit is not cancelled")
		}
		return dial(ctx, network, address)
	}
	config.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
		// The message is translated, and its code is that of any warning.
		if notice.Routine == "SyncRepWaitForLSN" {
			s.notReplicated = true
		}
	}
	config.AfterConnect = func(_ context.Context, conn *pgconn.PgConn) error {
		conn.CustomData()[sessionKey] = s
		return nil
	}
	return nil
}

// replicated returns errNotReplicated if the standby may lack what the last transaction
// has written or read.
func (s *session) replicated() error {
	if s.notReplicated {
		s.notReplicated = false
		return errNotReplicated
	}
	return nil
}

// commit does copies, the last of which is that of the status rows, and commits, all in
// one message; see [send]. When ctx ends after the status rows were sent, the connection
// is closed, but the commit goes on: its session keeps waiting, for a lock or for the
// standby, and holds its keys.
//
// The tag of the last statement must be looked at: in a transaction that has failed,
// "commit" is answered with the tag ROLLBACK and without an error.
func (s *Store) commit(ctx context.Context, conn *pgx.Conn, copies ...copyIn) error {
	session, pid := sessionOf(conn), conn.PgConn().PID()
	timeline := session.timeline
	session.notReplicated = false
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	late := time.AfterFunc(s.silence, func() { s.cutSilent(ctx, pid, timeline, cut) })
	defer late.Stop()
	beforeLast := func() {
		failpoint.Hit("sink/rows")
		session.committing.Store(true)
	}
	copies[len(copies)-1].sql += "; commit"
	tag, err := send(ctx, conn, beforeLast, copies...)
	if err == nil && tag.String() != "COMMIT" {
		err = fmt.Errorf("postgres answered %q to a commit", tag)
	}
	if !conn.IsClosed() {
		session.committing.Store(false)
	}
	return cmp.Or(err, session.replicated())
}

// cutSilent calls cut as soon as the server does not confirm that the session waits for
// the standby.
func (s *Store) cutSilent(ctx context.Context, pid uint32, timeline string, cut func()) {
	for s.awaitsStandby(ctx, pid, timeline) {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
	}
	cut()
}

func (s *Store) awaitsStandby(ctx context.Context, pid uint32, onTimeline string) (waits bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return false
	}
	defer conn.Release()
	const query = "select exists (select from pg_stat_activity where pid = $1 and wait_event = 'SyncRep')"
	// Another server's sessions say nothing.
	return sessionOf(conn.Conn()).timeline == onTimeline && conn.QueryRow(ctx, query, pid).Scan(&waits) == nil && waits
}

// checkStandby returns [ErrStandbyAway] if a session of this user has waited for the
// standby for more than 5 s.
func checkStandby(ctx context.Context, conn *pgx.Conn) error {
	const query = `
		select exists (
			select from pg_stat_activity
			 where usename = current_user and datname = current_database()
			   and wait_event = 'SyncRep' and state_change < clock_timestamp() - interval '5 seconds')`
	var away bool
	if err := conn.QueryRow(ctx, query).Scan(&away); err != nil {
		return fmt.Errorf("look for commits that wait for a standby: %w", err)
	}
	if away {
		return ErrStandbyAway
	}
	return nil
}

// A pool is a [pgxpool.Pool] whose statements fail if the standby may lack what they
// have written or read. It does not check transactions that are begun explicitly.
type pool struct{ *pgxpool.Pool }

// Exec wraps [pgxpool.Pool.Exec].
func (p pool) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	conn, err := p.Acquire(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	defer conn.Release()
	tag, err := conn.Exec(ctx, sql, args...)
	return tag, cmp.Or(err, sessionOf(conn.Conn()).replicated())
}

// Query wraps [pgxpool.Pool.Query].
func (p pool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	conn, err := p.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		conn.Release()
		return nil, err
	}
	return &poolRows{Rows: rows, conn: conn}, nil
}

// QueryRow wraps [pgxpool.Pool.QueryRow].
func (p pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := p.Query(ctx, sql, args...)
	return poolRow{rows, err}
}

// poolRows release their connection when they are closed.
type poolRows struct {
	pgx.Rows
	conn *pgxpool.Conn // nil when closed
	err  error         // of replicated, when closed
}

func (r *poolRows) Next() bool {
	next := r.Rows.Next()
	if !next {
		r.Close()
	}
	return next
}

func (r *poolRows) Close() {
	r.Rows.Close()
	if r.conn != nil {
		r.err = sessionOf(r.conn.Conn()).replicated()
		r.conn.Release()
		r.conn = nil
	}
}

func (r *poolRows) Err() error { return cmp.Or(r.Rows.Err(), r.err) }

type poolRow struct {
	rows pgx.Rows
	err  error
}

// Scan implements pgx.Row.
func (r poolRow) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		return cmp.Or(r.rows.Err(), pgx.ErrNoRows)
	}
	err := r.rows.Scan(dest...)
	r.rows.Close()
	return cmp.Or(err, r.rows.Err())
}
