package sink

import (
	"cmp"
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"intake"
)

// Records returns the records of a partner's clients that have one of these ids, in no
// order. It fails if an id holds U+0000 or is not UTF-8.
func (s *Store) Records(ctx context.Context, partner int32, ids []string) ([]intake.Record, error) {
	const query = `
		select partner_client_id, fingerprint, saved_at, batch_id, item, ` + awaitStandby + `
		  from partner_clients
		 where partner_id = $1 and partner_client_id = any($2)`
	rows, err := s.pool.Query(ctx, query, partner, ids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r intake.Record, err error) {
		err = row.Scan(&r.ID, (*[16]byte)(&r.Fingerprint), &r.SavedAt, &r.Batch, &r.Item, nil)
		return r, err
	})
}

// Record returns the record of a partner's client and the number of its claims; ok is
// false if there is none.
func (s *Store) Record(ctx context.Context, partner int32, id string) (r intake.Record, claims int, ok bool,
	err error) {
	const query = `
		select partner_client_id, fingerprint, saved_at, batch_id, item,
		       (select count(*) from revenue_claims r where r.client_id = c.id), ` + awaitStandby + `
		  from partner_clients c
		 where partner_id = $1 and partner_client_id = $2`
	err = s.pool.QueryRow(ctx, query, partner, id).Scan(&r.ID, (*[16]byte)(&r.Fingerprint), &r.SavedAt, &r.Batch,
		&r.Item, &claims, nil)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, 0, false, nil
	}
	return r, claims, err == nil, err
}

// KeysAfter returns the saved keys that follow last, ordered by partner and id, and the
// timeline of the data store that they were read on. The zero SavedKey is before all.
func (s *Store) KeysAfter(ctx context.Context, last intake.SavedKey, limit int) (keys []intake.SavedKey,
	onTimeline string, err error) {
	const query = `
		select partner_id, partner_client_id, fingerprint, ` + awaitStandby + `
		  from partner_clients
		 where (partner_id, partner_client_id) > ($1, $2)
		 order by partner_id, partner_client_id
		 limit $3`
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, "", err
	}
	defer conn.Release()
	rows, err := conn.Query(ctx, query, last.Partner, last.ID, limit)
	if err != nil {
		return nil, "", err
	}
	keys, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (k intake.SavedKey, err error) {
		err = row.Scan(&k.Partner, &k.ID, (*[16]byte)(&k.Fingerprint), nil)
		return k, err
	})
	session := sessionOf(conn.Conn())
	return keys, session.timeline, cmp.Or(err, session.replicated())
}

// EstimateRecords returns the approximate number of records, from the statistics of
// Postgres.
func (s *Store) EstimateRecords(ctx context.Context) (n int64, err error) {
	const query = "select greatest(reltuples, 0)::bigint from pg_class where oid = 'partner_clients'::regclass"
	err = s.pool.QueryRow(ctx, query).Scan(&n)
	return n, err
}
