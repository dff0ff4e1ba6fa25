package sink

import (
	"context"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"intake/internal/safety"
)

// minVersion of Postgres, as server_version_num has it: the oldest that the tests
// run on.
const minVersion = 15_00_00

// checkSettings tells whether a connection's server keeps what it says it has
// committed.
func checkSettings(ctx context.Context, conn *pgx.Conn) error {
	const query = `select current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'),
		current_setting('server_version_num')::int, current_setting('server_version')`
	var fsync, fullPageWrites, synchronousCommit, name string
	var version int
	if err := conn.QueryRow(ctx, query).Scan(&fsync, &fullPageWrites, &synchronousCommit, &version, &name); err != nil {
		return fmt.Errorf("read the settings of Postgres: %w", err)
	}
	switch {
	case version < minVersion:
		return &safety.Breach{Setting: "the version of Postgres", Is: name,
			Because: "it was never tried whether records are saved once there", Do: "use Postgres 15 or newer"}
	case fsync != "on":
		return &safety.Breach{Setting: "fsync in Postgres", Is: fsync,
			Because: "a crash of the machine may take records that were Completed, or the whole database", Do: "set fsync = on"}
	case fullPageWrites != "on":
		return &safety.Breach{Setting: "full_page_writes in Postgres", Is: fullPageWrites,
			Because: "a crash of the machine may corrupt pages with records that were Completed", Do: "set full_page_writes = on"}
	case synchronousCommit == "off":
		return &safety.Breach{Setting: "synchronous_commit in Postgres (for this user and database)", Is: synchronousCommit,
			Because: "a crash may take records that were Completed a moment before", Do: "set synchronous_commit = on"}
	}
	return nil
}

// CheckSettings tells whether Postgres keeps what it says it has committed: it
// fails with a *safety.Breach if not. With Options.RefuseUnsafe every connection is
// checked.
func (s *Store) CheckSettings(ctx context.Context) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return checkSettings(ctx, conn.Conn())
}

// CheckSchema tells whether the schema is the one that this program knows. An
// older one is brought up to date by Migrate; of a newer one nobody can say what
// this program would do to it.
func (s *Store) CheckSchema(ctx context.Context) error {
	var version int64
	if err := s.pool.QueryRow(ctx, "select coalesce(max(version_id), 0) from goose_db_version where is_applied").Scan(&version); err != nil {
		return fmt.Errorf("read the version of the schema (is it there? run intake migrate): %w", err)
	}
	known, err := schemaVersion()
	switch {
	case err != nil:
		return err
	case version > known:
		return &safety.Breach{Setting: "the version of the schema in Postgres", Is: strconv.FormatInt(version, 10),
			Because: fmt.Sprintf("this program knows versions up to %d, and may save what a newer one misreads", known), Do: "use the program that migrated it"}
	case version < known:
		return fmt.Errorf("the schema in Postgres has version %d, and this program needs %d: run intake migrate", version, known)
	}
	return nil
}

// schemaVersion is that of the last migration in this program.
func schemaVersion() (int64, error) {
	files, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return 0, err
	}
	number, _, _ := strings.Cut(strings.TrimPrefix(files[len(files)-1], "migrations/"), "_")
	return strconv.ParseInt(number, 10, 64)
}
