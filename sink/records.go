package sink

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"intake"
)

// Records gives what is kept of those of a partner's clients that have one of
// these ids, in no order. An id that Postgres can't hold, with U+0000 or not in
// UTF-8, makes it fail.
func (s *Store) Records(ctx context.Context, partner int32, ids []string) ([]intake.Record, error) {
	const query = `
		select partner_client_id, fingerprint, saved_at, batch_id, item
		  from partner_clients
		 where partner_id = $1 and partner_client_id = any($2)`
	rows, err := s.pool.Query(ctx, query, partner, ids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r intake.Record, err error) {
		err = row.Scan(&r.ID, (*[16]byte)(&r.Fingerprint), &r.SavedAt, &r.Batch, &r.Item)
		return r, err
	})
}

// Record gives what is kept of a partner's client, and how many claims; ok is
// false if there is none.
func (s *Store) Record(ctx context.Context, partner int32, id string) (r intake.Record, claims int, ok bool, err error) {
	const query = `
		select partner_client_id, fingerprint, saved_at, batch_id, item,
		       (select count(*) from revenue_claims r where r.client_id = c.id)
		  from partner_clients c
		 where partner_id = $1 and partner_client_id = $2`
	err = s.pool.QueryRow(ctx, query, partner, id).Scan(&r.ID, (*[16]byte)(&r.Fingerprint), &r.SavedAt, &r.Batch, &r.Item, &claims)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, 0, false, nil
	}
	return r, claims, err == nil, err
}
