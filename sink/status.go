package sink

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"intake"
)

// Outcomes gives those chunks of the batches that are finished.
func (s *Store) Outcomes(ctx context.Context, batches []uuid.UUID) ([]intake.Outcome, error) {
	return readOutcomes(ctx, s.pool, batches)
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func readOutcomes(ctx context.Context, db querier, batches []uuid.UUID) ([]intake.Outcome, error) {
	const query = `
		select batch_id, chunk, first_item, items, withdrawn, not_saved
		  from batch_status
		 where batch_id = any($1)`
	rows, err := db.Query(ctx, query, batches)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (outcome intake.Outcome, err error) {
		var notSaved []byte
		err = row.Scan(&outcome.Batch, &outcome.Chunk, &outcome.First, &outcome.Len, &outcome.Withdrawn, &notSaved)
		if err == nil && notSaved != nil {
			err = json.Unmarshal(notSaved, &outcome.NotSaved)
		}
		return outcome, err
	})
}

const insertStatus = `
	insert into batch_status (batch_id, chunk, chunks, partner_id, first_item, items, completed, withdrawn, not_saved)
	select * from unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::int[], $6::int[], $7::int[], $8::bool[], $9::jsonb[])`

// writeStatus makes the outcomes final. It fails if another transaction has
// finished one of the chunks since findFinished.
func (g *gathering) writeStatus(ctx context.Context) error {
	rows := newStatusRows(len(g.chunks))
	for i, chunk := range g.chunks {
		if g.final[i] || g.first[i] != i {
			continue
		}
		if err := rows.add(chunk, g.outcomes[i]); err != nil {
			return err
		}
	}
	if len(rows.chunks) == 0 {
		return nil
	}
	_, err := g.tx.Exec(ctx, insertStatus, rows.args()...)
	return err
}

// Withdraw gives up the chunks of a batch of which it is not known whether they
// were queued, so that its request can be refused: none of them will be saved
// any more. If one of them was finished before, nothing is withdrawn, and ok is
// false.
func (s *Store) Withdraw(ctx context.Context, chunks []*intake.Chunk) (ok bool, err error) {
	rows := newStatusRows(len(chunks))
	for _, chunk := range chunks {
		if err := rows.add(chunk, intake.Outcome{Withdrawn: true}); err != nil {
			return false, err
		}
	}
	_, err = s.pool.Exec(ctx, insertStatus, rows.args()...)
	if err != nil && reactionTo(err) == tryAgain {
		return false, nil
	}
	return err == nil, err
}

// statusRows are the arguments of insertStatus, ordered by batch and chunk, so
// that no two transactions wait for each other.
type statusRows struct {
	chunks   []*intake.Chunk
	outcomes []intake.Outcome
	notSaved []json.RawMessage
}

func newStatusRows(n int) *statusRows {
	return &statusRows{make([]*intake.Chunk, 0, n), make([]intake.Outcome, 0, n), make([]json.RawMessage, 0, n)}
}

func (r *statusRows) add(chunk *intake.Chunk, outcome intake.Outcome) error {
	var notSaved json.RawMessage
	if len(outcome.NotSaved) > 0 {
		var err error
		if notSaved, err = json.Marshal(outcome.NotSaved); err != nil {
			return err
		}
	}
	at, _ := slices.BinarySearchFunc(r.chunks, chunk, compareChunks)
	r.chunks = slices.Insert(r.chunks, at, chunk)
	r.outcomes = slices.Insert(r.outcomes, at, outcome)
	r.notSaved = slices.Insert(r.notSaved, at, notSaved)
	return nil
}

func compareChunks(a, b *intake.Chunk) int {
	if c := slices.Compare(a.Batch[:], b.Batch[:]); c != 0 {
		return c
	}
	return a.Number - b.Number
}

func (r *statusRows) args() []any {
	n := len(r.chunks)
	var (
		batches   = make([]uuid.UUID, n)
		columns   [6][]int32 // number, chunks, partner, first, length, completed
		withdrawn = make([]bool, n)
	)
	for i := range columns {
		columns[i] = make([]int32, n)
	}
	for i, chunk := range r.chunks {
		outcome := &r.outcomes[i]
		batches[i], withdrawn[i] = chunk.Batch, outcome.Withdrawn
		completed := chunk.Len - len(outcome.NotSaved)
		if outcome.Withdrawn {
			completed = 0
		}
		for column, value := range [...]int{chunk.Number, chunk.Chunks, int(chunk.Partner), chunk.First, chunk.Len, completed} {
			columns[column][i] = int32(value)
		}
	}
	return []any{batches, columns[0], columns[1], columns[2], columns[3], columns[4], columns[5], withdrawn, r.notSaved}
}
