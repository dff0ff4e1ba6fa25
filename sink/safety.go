package sink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"intake/internal/safety"
)

// minVersion is the oldest version of Postgres that the tests run on, in the form of
// server_version_num.
const minVersion = 15_00_00

// settings are a server's settings that decide whether it keeps what it has committed.
type settings struct {
	fsync, fullPageWrites, synchronousCommit string
	standbys                                 string // synchronous_standby_names
	version                                  int    // server_version_num
	versionName                              string
	pooled                                   bool // the connection leads to a pooler
}

// checkSettings returns an error with a [safety.Breach] for each setting by which the
// server may lose what it has committed.
func checkSettings(ctx context.Context, conn *pgx.Conn) error {
	const query = `select current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'),
		current_setting('synchronous_standby_names'), current_setting('server_version_num')::int, current_setting('server_version'), pg_backend_pid()`
	var (
		set settings
		pid uint32
	)
	// One message, as a pooler may route the next one to another session.
	err := conn.QueryRow(ctx, query, pgx.QueryExecModeSimpleProtocol).Scan(&set.fsync, &set.fullPageWrites,
		&set.synchronousCommit,
		&set.standbys, &set.version, &set.versionName, &pid)
	if err != nil {
		return fmt.Errorf("read the settings of Postgres: %w", err)
	}
	set.pooled = pid != conn.PgConn().PID()
	return set.check()
}

// check returns everything that is wrong.
func (s settings) check() error {
	var wrong []error
	if s.pooled {
		wrong = append(wrong, &safety.Breach{Setting: "the connection to Postgres", Is: "one through a pooler",
			Because: "a failover or a restore behind it goes unnoticed, and records that were lost there may be answered as Duplicates", Do: "connect to Postgres itself"})
	}
	if s.version < minVersion {
		wrong = append(wrong, &safety.Breach{Setting: "the version of Postgres", Is: s.versionName,
			Because: "Intake was never tested with it", Do: "use Postgres 15 or newer"})
	}
	if s.fsync != "on" {
		wrong = append(wrong, &safety.Breach{Setting: "fsync in Postgres", Is: s.fsync,
			Because: "a crash of the machine may take records that were Completed, or the whole database",
			Do:      "set fsync = on"})
	}
	if s.fullPageWrites != "on" {
		wrong = append(wrong, &safety.Breach{Setting: "full_page_writes in Postgres", Is: s.fullPageWrites,
			Because: "a crash of the machine may corrupt pages with records that were Completed",
			Do:      "set full_page_writes = on"})
	}
	if s.synchronousCommit == "off" {
		wrong = append(wrong, &safety.Breach{Setting: "synchronous_commit in Postgres (for this user and database)",
			Is:      s.synchronousCommit,
			Because: "a crash may take records that were Completed a moment before", Do: "set synchronous_commit = on"})
	}
	if s.synchronousCommit == "local" && s.standbys != "" {
		wrong = append(wrong, &safety.Breach{Setting: "synchronous_commit in Postgres (for this user and database)",
			Is:      s.synchronousCommit,
			Because: "a standby of synchronous_standby_names that is promoted may lack records that were Completed",
			Do:      "set synchronous_commit = on"})
	}
	return errors.Join(wrong...)
}

// Check checks that Postgres keeps what it has committed, and has the schema that this
// program knows. The error holds a [safety.Breach] per violation. Call Check repeatedly,
// as the settings may change under a running process. With [Options].RefuseUnsafe, every
// new connection is checked as well.
func (s *Store) Check(ctx context.Context) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	defer conn.Release()
	return errors.Join(checkSettings(ctx, conn.Conn()), s.checkSchema(ctx, conn.Conn()), checkStandby(ctx, conn.Conn()))
}

// admit reports, as an error, why a new connection may not be used.
func (s *Store) admit(ctx context.Context, conn *pgx.Conn, opts Options) error {
	var errs []error
	if opts.RefuseUnsafe {
		errs = append(errs, checkSettings(ctx, conn))
	}
	if opts.NeedSchema {
		errs = append(errs, s.checkSchema(ctx, conn))
	}
	err := errors.Join(errs...)
	if !opts.RefuseUnsafe {
		_, err = safety.Find(err)
	}
	return err
}

// checkSchema checks that the schema is the one that this program knows. [Migrate]
// updates an older one. A newer one is a [safety.Breach], unless this process has seen
// its own version before: in a rolling upgrade, the schema is migrated while old
// processes run.
func (s *Store) checkSchema(ctx context.Context, conn *pgx.Conn) error {
	var version int64
	err := conn.QueryRow(ctx,
		"select coalesce(max(version_id), 0) from goose_db_version where is_applied").Scan(&version)
	if answer := (*pgconn.PgError)(nil); errors.As(err, &answer) && answer.Code == undefinedTable {
		return errors.New("there is no schema in Postgres yet: run intake migrate")
	}
	if err != nil {
		return fmt.Errorf("read the version of the schema in Postgres: %w", err)
	}
	known, err := schemaVersion()
	switch {
	case err != nil:
		return err
	case version < known:
		return fmt.Errorf("the schema in Postgres has version %d, and this program needs %d: run intake migrate",
			version, known)
	case version > known && !s.schemaKnown.Load():
		return &safety.Breach{Setting: "the version of the schema in Postgres", Is: strconv.FormatInt(version, 10),
			Because: fmt.Sprintf("this program knows versions up to %d, and may save what a newer one misreads", known),
			Do:      "use the program that migrated it"}
	}
	s.schemaKnown.Store(true)
	return nil
}

const undefinedTable = "42P01"

// schemaVersion returns the version of the last migration in this program.
func schemaVersion() (int64, error) {
	files, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return 0, err
	}
	number, _, _ := strings.Cut(strings.TrimPrefix(files[len(files)-1], "migrations/"), "_")
	return strconv.ParseInt(number, 10, 64)
}
