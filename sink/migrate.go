package sink

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migrate brings the schema of the database at url up to date, with what the roles
// intake_front and intake_worker may do there. Several processes may call it
// concurrently. It returns the version of the schema afterwards and the number of
// migrations applied.
func Migrate(ctx context.Context, url string) (version int64, applied int, err error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return 0, 0, fmt.Errorf("read the Postgres URL: %w", err)
	}
	db := stdlib.OpenDB(*config)
	defer db.Close()
	var encoding string
	if err := db.QueryRowContext(ctx, "show server_encoding").Scan(&encoding); err != nil {
		return 0, 0, fmt.Errorf("connect to Postgres: %w", err)
	}
	if encoding != "UTF8" {
		return 0, 0, fmt.Errorf("the database's encoding is %s; create it with encoding UTF8", encoding)
	}
	provider, err := newMigrations(db)
	if err != nil {
		return 0, 0, err
	}
	results, err := provider.Up(ctx)
	if answer := (*pgconn.PgError)(nil); errors.As(err, &answer) && answer.Code == lockNotAvailable {
		err = fmt.Errorf("%w: something reads or dumps the tables; run intake migrate again when it has ended", err)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("migrate the schema: %w", err)
	}
	if err := settle(ctx, config); err != nil {
		return 0, 0, fmt.Errorf("settle the schema: %w", err)
	}
	version, err = provider.GetDBVersion(ctx)
	return version, len(results), err
}

const lockNotAvailable = "55P03"

func newMigrations(db *sql.DB) (*goose.Provider, error) {
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return nil, err
	}
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker))
}

// roles are the roles that fronts and workers connect as, or are members of.
var roles = []string{"intake_front", "intake_worker"}

//go:embed grants.sql
var grants string

// settle adds what a current schema needs, and a restored one may lack: the roles'
// grants and a signing key.
func settle(ctx context.Context, config *pgx.ConnConfig) error {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// The lock excludes other calls, and workers that make partitions.
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock(hashtext('intake batch_status'))"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, grants); err != nil {
			return fmt.Errorf("grant the roles their rights: %w", err)
		}
		return makeFirstKey(ctx, tx)
	})
}

// MissingRoles returns which of the roles intake_front and intake_worker the server
// lacks. Without them fronts and workers must connect as the owner of the schema.
func MissingRoles(ctx context.Context, url string) ([]string, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	const query = "select name from unnest($1::text[]) name where to_regrole(name) is null"
	rows, err := conn.Query(ctx, query, roles)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
