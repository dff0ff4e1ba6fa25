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

// Claim claims an Idempotency-Key of a partner for a request with a body of this
// SHA-256, which would be batch; that names the claimant too. The claim holds for
// lease: when there is no answer by then, a repeat takes over.
func (s *Store) Claim(ctx context.Context, partner int32, key string, hash [32]byte, batch uuid.UUID, lease time.Duration) (intake.Claim, error) {
	// One who takes over goes on with the first one's batch, of which some may be
	// saved already; but not with one that was withdrawn, for nothing of it will be.
	const claim = `
		insert into idempotency_keys as k (partner_id, key, body_hash, batch_id, owner, lease_until)
		values ($1, $2, $3, $4, $4, clock_timestamp() + $5)
		on conflict (partner_id, key) do update
		   set lease_until = excluded.lease_until,
		       owner = excluded.owner,
		       batch_id = case when exists (select from batch_status b where b.batch_id = k.batch_id and b.withdrawn)
		                       then excluded.batch_id else k.batch_id end
		 where k.answer is null and k.lease_until < clock_timestamp() and k.body_hash = excluded.body_hash
		returning batch_id`
	const look = `
		select batch_id, body_hash, answer, case when answer is not null then ` + awaitStandby + ` end
		  from idempotency_keys
		 where partner_id = $1 and key = $2`
	for {
		var c intake.Claim
		err := s.pool.QueryRow(ctx, claim, partner, key, hash[:], batch, lease).Scan(&c.Batch)
		if err == nil {
			c.State = intake.ClaimTakenOver
			if c.Batch == batch {
				c.State = intake.ClaimFresh
			}
			return c, nil
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return c, fmt.Errorf("claim an idempotency key: %w", err)
		}
		var before []byte
		err = s.pool.QueryRow(ctx, look, partner, key).Scan(&c.Batch, &before, &c.Answer, nil)
		switch {
		case errors.Is(err, pgx.ErrNoRows): // given up since
			continue
		case err != nil:
			return c, fmt.Errorf("look up an idempotency key: %w", err)
		case !bytes.Equal(before, hash[:]):
			c.State = intake.ClaimOtherBody
		case c.Answer == nil:
			c.State = intake.ClaimRunning
		default:
			c.State = intake.ClaimAnswered
		}
		return c, nil
	}
}

// Renew lets a claim last for lease from now on, unless there is an answer
// already, or another claimant.
func (s *Store) Renew(ctx context.Context, partner int32, claimant intake.Claimant, lease time.Duration) error {
	const query = "update idempotency_keys set lease_until = clock_timestamp() + $4 where partner_id = $1 and key = $2 and owner = $3 and answer is null"
	if _, err := s.pool.Exec(ctx, query, partner, claimant.Key, claimant.Owner, lease); err != nil {
		return fmt.Errorf("renew the claim of an idempotency key: %w", err)
	}
	return nil
}

// KeepAnswer keeps the answer to a request that has claimed a key, and gives the
// one that is the first: another, if the lease has ended since and a repeat was
// faster.
func (s *Store) KeepAnswer(ctx context.Context, partner int32, key string, answer []byte) (first []byte, err error) {
	const query = "update idempotency_keys set answer = coalesce(answer, $3) where partner_id = $1 and key = $2 returning answer"
	if err := s.pool.QueryRow(ctx, query, partner, key, answer).Scan(&first); err != nil {
		return nil, fmt.Errorf("keep the answer of an idempotency key: %w", err)
	}
	return first, nil
}

// Unclaim gives a key up whose request was refused, so that nothing is known of
// it. It may return intake.ErrTakenOver.
func (s *Store) Unclaim(ctx context.Context, partner int32, claimant intake.Claimant) error {
	const query = "delete from idempotency_keys where partner_id = $1 and key = $2 and owner = $3 and answer is null"
	tag, err := s.pool.Exec(ctx, query, partner, claimant.Key, claimant.Owner)
	switch {
	case err == nil && tag.RowsAffected() == 0:
		return intake.ErrTakenOver
	case err != nil:
		return fmt.Errorf("give up an idempotency key: %w", err)
	}
	return nil
}

// dropKeys drops the keys that need not be kept any more, some at a time.
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
