package sink

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/encoding/protowire"

	"intake"
	"intake/internal/failpoint"
)

// Outcomes returns the outcomes of those chunks of the batches that are finished.
func (s *Store) Outcomes(ctx context.Context, batches []uuid.UUID) ([]intake.Outcome, error) {
	return readOutcomes(ctx, s.pool, batches)
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func readOutcomes(ctx context.Context, db querier, batches []uuid.UUID) ([]intake.Outcome, error) {
	const query = `
		select batch_id, chunk, first_item, items, withdrawn, not_saved, ` + awaitStandby + `
		  from batch_status
		 where batch_id = any($1) and batch_id between $2 and $3`
	if len(batches) == 0 {
		return nil, nil
	}
	// With the bounds, Postgres skips the partitions of other days.
	rows, err := db.Query(ctx, query, batches, slices.MinFunc(batches, compareIDs), slices.MaxFunc(batches, compareIDs))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (outcome intake.Outcome, err error) {
		var notSaved []byte
		err = row.Scan(&outcome.Batch, &outcome.Chunk, &outcome.First, &outcome.Len, &outcome.Withdrawn, &notSaved, nil)
		if err == nil && notSaved != nil {
			err = json.Unmarshal(notSaved, &outcome.NotSaved)
		}
		return outcome, err
	})
}

func compareIDs(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }

// statusRows returns the rows to write of the outcomes.
func (g *gathering) statusRows() (statusRows, error) {
	rows := make(statusRows, 0, len(g.chunks))
	for i, chunk := range g.chunks {
		if g.final[i] || g.first[i] != i {
			continue
		}
		row, err := newStatusRow(chunk, &g.outcomes[i])
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// Withdraw withdraws the chunks of a batch that may have been queued, so that its
// request can be refused: none of them will be saved. If one of them is finished
// already, Withdraw changes nothing and ok is false. With a holder, it returns
// [intake.ErrTakenOver] if the key has another holder by now.
func (s *Store) Withdraw(ctx context.Context, chunks []*intake.Chunk, holder *intake.Holder) (ok bool, err error) {
	rows := make(statusRows, len(chunks))
	for i, chunk := range chunks {
		if rows[i], err = newStatusRow(chunk, &intake.Outcome{Withdrawn: true}); err != nil {
			return false, err
		}
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Release()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer rollback(ctx, conn.Conn())
	if holder != nil {
		// The lock keeps a repeat from taking over until the commit.
		const query = "select from idempotency_keys where partner_id = $1 and key = $2 and owner = $3 for update"
		tag, err := tx.Exec(ctx, query, chunks[0].Partner, holder.Key, holder.Owner)
		if err != nil {
			return false, err
		}
		if tag.RowsAffected() == 0 {
			return false, intake.ErrTakenOver
		}
		failpoint.Hit("sink/withdrawing")
	}
	err = s.commit(ctx, conn.Conn(), rows.copy())
	if err != nil && reactionTo(err) == tryAgain {
		return false, nil
	}
	return err == nil, err
}

// GiveUp finishes a partner's chunk without saving any item of it: those that are not
// decided yet are refused. A chunk that is finished or withdrawn stays as it is. GiveUp
// does nothing if the partner isn't there, as another one may have its number by now.
func (s *Store) GiveUp(ctx context.Context, partner string, chunk *intake.Chunk) error {
	const query = `
		insert into batch_status (batch_id, chunk, chunks, partner_id, first_item, items, completed, not_saved, keys)
		select $1, $2, $3, id, $4, $5, 0, $6, $7
		  from partners
		 where id = $8 and name = $9
		on conflict do nothing`
	notSaved := make([]intake.ItemVerdict, chunk.Len)
	for i := range notSaved {
		notSaved[i] = intake.ItemVerdict{Item: chunk.First + i, Verdict: intake.GivenUp()}
	}
	for _, rejected := range chunk.Rejected {
		notSaved[rejected.Item-chunk.First] = rejected
	}
	if _, err := s.pool.Exec(ctx, query, chunk.Batch, chunk.Number, chunk.Chunks, chunk.First, chunk.Len,
		notSaved, appendKeys(nil, chunk), chunk.Partner, partner); err != nil {
		return fmt.Errorf("give up chunk %d of batch %s: %w", chunk.Number, chunk.Batch, err)
	}
	return nil
}

// Finished returns those chunks of a partner's batch that are finished, in the order of
// their numbers. It leaves out withdrawn ones.
func (s *Store) Finished(ctx context.Context, partner int32, batch uuid.UUID) ([]intake.Finished, error) {
	const query = `
		select batch_id, chunk, first_item, items, not_saved, chunks, keys, ` + awaitStandby + `
		  from batch_status
		 where batch_id = $1 and partner_id = $2 and not withdrawn
		 order by chunk`
	rows, err := s.pool.Query(ctx, query, batch, partner)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (f intake.Finished, err error) {
		var notSaved, keys []byte
		if err := row.Scan(&f.Batch, &f.Chunk, &f.First, &f.Len, &notSaved, &f.Chunks, &keys, nil); err != nil {
			return f, err
		}
		if notSaved != nil {
			if err := json.Unmarshal(notSaved, &f.NotSaved); err != nil {
				return f, err
			}
		}
		f.Keys, err = readKeys(keys, f.Len)
		return f, err
	})
}

// appendKeys appends the key of each item of a chunk, each after its length as a varint.
func appendKeys(b []byte, chunk *intake.Chunk) []byte {
	saved, rejected := 0, 0
	for item := chunk.First; item < chunk.First+chunk.Len; item++ {
		key := ""
		switch {
		case saved < len(chunk.Clients) && chunk.Clients[saved].Item == item:
			key = chunk.Clients[saved].ID
			saved++
		case rejected < len(chunk.Rejected) && chunk.Rejected[rejected].Item == item:
			if rejected < len(chunk.RejectedKeys) {
				key = chunk.RejectedKeys[rejected]
			}
			rejected++
		}
		b = protowire.AppendString(b, key)
	}
	return b
}

// readKeys reads the keys of n items. All are "" in chunks that an earlier version
// has saved.
func readKeys(b []byte, n int) ([]string, error) {
	keys := make([]string, n)
	if b == nil {
		return keys, nil
	}
	for i := range keys {
		key, size := protowire.ConsumeString(b)
		if size < 0 {
			return nil, fmt.Errorf("read the keys of a chunk: %w", protowire.ParseError(size))
		}
		keys[i], b = key, b[size:]
	}
	return keys, nil
}

// A statusRow is a row of batch_status.
type statusRow struct {
	chunk     *intake.Chunk
	completed int
	withdrawn bool
	notSaved  json.RawMessage
}

func newStatusRow(chunk *intake.Chunk, outcome *intake.Outcome) (row statusRow, err error) {
	row = statusRow{chunk: chunk, withdrawn: outcome.Withdrawn}
	if !outcome.Withdrawn {
		row.completed = chunk.Len - len(outcome.NotSaved)
	}
	if len(outcome.NotSaved) > 0 {
		row.notSaved, err = json.Marshal(outcome.NotSaved)
	}
	return row, err
}

type statusRows []statusRow

// copy returns the COPY of the rows, ordered by batch and chunk, so that no two
// transactions deadlock.
func (rows statusRows) copy() copyIn {
	slices.SortFunc(rows, func(a, b statusRow) int {
		if c := compareIDs(a.chunk.Batch, b.chunk.Batch); c != 0 {
			return c
		}
		return a.chunk.Number - b.chunk.Number
	})
	return copyIn{copyStatus, len(rows), func(b []byte, i int) []byte { return appendStatus(b, &rows[i]) }}
}
