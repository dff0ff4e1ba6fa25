package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"intake"
)

// Reserve reserves an Idempotency-Key of a partner for a request whose body has this
// SHA-256. batch is the id of the request's batch, and names the holder as well. The
// reservation lasts for lease: if there is no answer by then, a repeat takes over.
func (s *Store) Reserve(ctx context.Context, partner int32, key string, hash [32]byte, batch uuid.UUID,
	lease time.Duration) (intake.Reservation, error) {
	const reserve = `
		insert into idempotency_keys as k (partner_id, key, body_hash, batch_id, owner, lease_until)
		values ($1, $2, $3, $4, $4, clock_timestamp() + $5)
		on conflict (partner_id, key) do update
		   set lease_until = excluded.lease_until,
		       owner = excluded.owner
		 where k.answer is null and k.lease_until < clock_timestamp() and k.body_hash = excluded.body_hash
		returning batch_id`
	const look = `
		select batch_id, body_hash, answer, case when answer is not null then ` + awaitStandby + ` end
		  from idempotency_keys
		 where partner_id = $1 and key = $2`
	for {
		var c intake.Reservation
		err := s.pool.QueryRow(ctx, reserve, partner, key, hash[:], batch, lease).Scan(&c.Batch)
		if err == nil {
			return s.inherit(ctx, partner, key, batch, c.Batch)
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return c, fmt.Errorf("reserve an idempotency key: %w", err)
		}
		var before []byte
		err = s.pool.QueryRow(ctx, look, partner, key).Scan(&c.Batch, &before, &c.Answer, nil)
		switch {
		case errors.Is(err, pgx.ErrNoRows): // given up since
			continue
		case err != nil:
			return c, fmt.Errorf("look up an idempotency key: %w", err)
		case !bytes.Equal(before, hash[:]):
			c.State = intake.ReservationOtherBody
		case c.Answer == nil:
			c.State = intake.ReservationRunning
		default:
			c.State = intake.ReservationAnswered
		}
		return c, nil
	}
}

// inherit returns the reservation of owner, who has the key now, on the batch of the request
// that had it before. The owner continues with that batch, as some of it may be saved
// already, unless the batch was withdrawn: nothing of it will be saved then.
//
// The statement that reserves can't see that: it may have waited for the withdrawal, and
// its snapshot is older. From here on only the owner may withdraw the batch.
func (s *Store) inherit(
	ctx context.Context, partner int32, key string, owner, batch uuid.UUID,
) (intake.Reservation, error) {
	const leave = `
		update idempotency_keys
		   set batch_id = owner
		 where partner_id = $1 and key = $2 and owner = $3 and batch_id = $4
		   and exists (select from batch_status where batch_id = $4 and withdrawn)`
	if batch == owner {
		return intake.Reservation{State: intake.ReservationFresh, Batch: batch}, nil
	}
	tag, err := s.pool.Exec(ctx, leave, partner, key, owner, batch)
	switch {
	case err != nil:
		return intake.Reservation{}, fmt.Errorf("take over an idempotency key: %w", err)
	case tag.RowsAffected() > 0:
		return intake.Reservation{State: intake.ReservationFresh, Batch: owner}, nil
	}
	return intake.Reservation{State: intake.ReservationTakenOver, Batch: batch}, nil
}

// Renew extends a reservation to lease from now. It does nothing if there is an answer
// already, or another holder.
func (s *Store) Renew(ctx context.Context, partner int32, holder intake.Holder, lease time.Duration) error {
	const query = "update idempotency_keys set lease_until = clock_timestamp() + $4 where partner_id = $1 and key = $2 and owner = $3 and answer is null"
	if _, err := s.pool.Exec(ctx, query, partner, holder.Key, holder.Owner, lease); err != nil {
		return fmt.Errorf("renew the reservation of an idempotency key: %w", err)
	}
	return nil
}

// KeepAnswer keeps the answer to a batch and returns it, or the answer that was kept
// for this batch before. It returns [intake.ErrTakenOver] if there is none and the
// key has another holder or another batch.
func (s *Store) KeepAnswer(ctx context.Context, partner int32, holder intake.Holder, batch uuid.UUID,
	answer []byte) (first []byte, err error) {
	const query = `
		update idempotency_keys
		   set answer = coalesce(answer, $5)
		 where partner_id = $1 and key = $2 and batch_id = $4 and (owner = $3 or answer is not null)
		returning answer`
	err = s.pool.QueryRow(ctx, query, partner, holder.Key, holder.Owner, batch, answer).Scan(&first)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, intake.ErrTakenOver
	case err != nil:
		return nil, fmt.Errorf("keep the answer of an idempotency key: %w", err)
	}
	return first, nil
}

// Release deletes the reservation of a request that was refused, so that nothing is
// known of the key. It returns [intake.ErrTakenOver] if the key has another holder.
func (s *Store) Release(ctx context.Context, partner int32, holder intake.Holder) error {
	const query = "delete from idempotency_keys where partner_id = $1 and key = $2 and owner = $3 and answer is null"
	tag, err := s.pool.Exec(ctx, query, partner, holder.Key, holder.Owner)
	switch {
	case err == nil && tag.RowsAffected() == 0:
		return intake.ErrTakenOver
	case err != nil:
		return fmt.Errorf("release an idempotency key: %w", err)
	}
	return nil
}

// dropKeys deletes the keys that are too old, 10,000 at a time.
func (s *Store) dropKeys(ctx context.Context) error {
	query := `
		delete from idempotency_keys where ctid = any(array(
			select ctid from idempotency_keys where ` + isOld("created_at") + ` limit 10000))`
	for {
		tag, err := s.pool.Exec(ctx, query)
		if err != nil {
			return fmt.Errorf("drop old idempotency keys: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return nil
		}
	}
}
