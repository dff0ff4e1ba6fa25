package sink

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// SetSilence sets the limit on the time of a save.
func SetSilence(s *Store, d time.Duration) { s.silence = d }

// TidyStatusAt is TidyStatus with a clock that is wrong.
var TidyStatusAt = (*Store).tidyStatus

// MakePartition makes the partition of a day.
var MakePartition = (*Store).makePartition

// MigrateTo migrates the schema up, or down, to a version.
func MigrateTo(ctx context.Context, url string, version int64) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*config)
	defer db.Close()
	provider, err := newMigrations(db)
	if err != nil {
		return err
	}
	now, err := provider.GetDBVersion(ctx)
	if err != nil {
		return err
	}
	if version < now {
		_, err = provider.DownTo(ctx, version)
	} else {
		_, err = provider.UpTo(ctx, version)
	}
	return err
}
