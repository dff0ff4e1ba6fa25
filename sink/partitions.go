package sink

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// statusDays is how many days the status of a batch is kept. aheadOfDays is how many days
// ahead there are partitions, in case no worker runs for a while.
const (
	statusDays  = 30
	aheadOfDays = 7
)

// TidyStatus makes the partitions of batch_status for the coming days, and deletes
// partitions and Idempotency-Keys that are older than 30 days, by the clock of Postgres:
// a worker's may be wrong. Several processes may call it concurrently. It waits at most
// 2 s for a lock, as others would wait behind it.
func (s *Store) TidyStatus(ctx context.Context) error {
	var today time.Time
	if err := s.pool.QueryRow(ctx, "select (now() at time zone 'UTC')::date").Scan(&today); err != nil {
		return fmt.Errorf("read the clock of Postgres: %w", err)
	}
	return s.tidyStatus(ctx, today)
}

func (s *Store) tidyStatus(ctx context.Context, today time.Time) error {
	for n := range aheadOfDays + 1 {
		if err := s.makePartition(ctx, today.AddDate(0, 0, n)); err != nil {
			return fmt.Errorf("make a partition of batch_status: %w", err)
		}
	}
	if err := s.dropPartitions(ctx, today.AddDate(0, 0, -statusDays)); err != nil {
		return fmt.Errorf("drop old partitions of batch_status: %w", err)
	}
	return s.dropKeys(ctx)
}

// isOld returns the SQL condition that a row with this time need not be kept.
func isOld(column string) string {
	return fmt.Sprintf("%s < now() - interval '%d days'", column, statusDays)
}

const partitionPrefix = "batch_status_"

func partitionName(day time.Time) string { return partitionPrefix + day.Format("20060102") }

// alone calls do in a transaction that excludes other calls of TidyStatus.
func (s *Store) alone(ctx context.Context, do func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		const lock = "set local lock_timeout = '2s'; select pg_advisory_xact_lock(hashtext('intake batch_status'))"
		if _, err := tx.Exec(ctx, lock); err != nil {
			return err
		}
		return do(tx)
	})
}

// makePartition makes the partition of a day unless it exists.
func (s *Store) makePartition(ctx context.Context, day time.Time) error {
	name := partitionName(day)
	var there bool
	const exists = "select exists (select from pg_inherits where inhparent = 'batch_status'::regclass and inhrelid::regclass::text = $1)"
	if err := s.pool.QueryRow(ctx, exists, name).Scan(&there); err != nil || there {
		return err
	}
	return s.alone(ctx, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, exists, name).Scan(&there); err != nil || there {
			return err
		}
		_, err := tx.Exec(ctx, "select make_status_partition($1)", day)
		return err
	})
}

// dropPartitions drops the partitions of the days before a day. It keeps one that has a
// chunk finished after that, which may be there if a front's clock was behind.
func (s *Store) dropPartitions(ctx context.Context, before time.Time) error {
	const partitions = "select inhrelid::regclass::text from pg_inherits where inhparent = 'batch_status'::regclass"
	rows, err := s.pool.Query(ctx, partitions)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		day, err := time.Parse("20060102", strings.TrimPrefix(name, partitionPrefix))
		if err != nil || !day.Before(before) {
			continue
		}
		if err := s.alone(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "select drop_status_partition($1)", day)
			return err
		}); err != nil {
			return err
		}
	}
	_, err = s.pool.Exec(ctx, "delete from batch_status_default where "+isOld("finished_at"))
	return err
}
