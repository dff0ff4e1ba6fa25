package sink

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"intake"
)

// Save saves a gathering of chunks, of any batches and partners, in one
// transaction, and returns when it is committed. Items that Postgres has
// already are Duplicates, or Completed if they were saved from this very place
// of this very batch; items whose data Postgres refuses are Refused, and all
// others are saved nevertheless. A chunk that was finished before is answered
// as it was then. An error means that nothing is known to be saved, and that
// the same chunks should be given again later.
func (s *Store) Save(ctx context.Context, chunks []*intake.Chunk) (intake.Saved, error) {
	const tries = 5
	careful := false
	for try := 1; ; try++ {
		saved, err := s.trySave(ctx, chunks, careful)
		if err == nil {
			return saved, nil
		}
		switch reaction := reactionTo(err); {
		case reaction == halve && !careful:
			careful = true
		case reaction == tryAgain && try < tries:
		default:
			if timedOut(err) {
				s.endStopped(ctx)
			}
			return intake.Saved{}, fmt.Errorf("save gathering of %d chunks: %w", len(chunks), err)
		}
	}
}

// A gathering is what one transaction saves.
type gathering struct {
	tx     pgx.Tx
	chunks []*intake.Chunk
	// outcomes has an entry a chunk; final tells which are an earlier
	// transaction's.
	outcomes []intake.Outcome
	final    []bool
	// first is where each chunk stands first in chunks: one that is delivered
	// again may meet itself.
	first  []int
	rows   []row
	copied []byte
}

func newGathering(tx pgx.Tx, chunks []*intake.Chunk) *gathering {
	n := len(chunks)
	g := &gathering{tx: tx, chunks: chunks, outcomes: make([]intake.Outcome, n), final: make([]bool, n), first: make([]int, n)}
	seen := make(map[chunkKey]int, n)
	for i, chunk := range chunks {
		key := chunkKey{chunk.Batch, chunk.Number}
		if _, again := seen[key]; !again {
			seen[key] = i
		}
		g.first[i] = seen[key]
		g.outcomes[i] = intake.Outcome{Batch: chunk.Batch, Chunk: chunk.Number, First: chunk.First, Len: chunk.Len}
	}
	return g
}

type chunkKey struct {
	batch  uuid.UUID
	number int
}

// A row is an item that may get saved.
type row struct {
	chunk    *intake.Chunk
	client   *intake.PartnerClient
	clientID int64 // when it was saved just now
	verdict  intake.Verdict
	saved    intake.Fingerprint // of the record that is there now; none if refused
}

func (s *Store) trySave(ctx context.Context, chunks []*intake.Chunk, careful bool) (intake.Saved, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return intake.Saved{}, err
	}
	defer conn.Release()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return intake.Saved{}, err
	}
	defer rollback(ctx, tx)

	g := newGathering(tx, chunks)
	if err := g.findFinished(ctx); err != nil {
		return intake.Saved{}, err
	}
	g.lineUp()
	if careful {
		// A constraint that is checked at commit could not be pinned to an item.
		if _, err := tx.Exec(ctx, "set constraints all immediate"); err != nil {
			return intake.Saved{}, err
		}
		err = g.saveCarefully(ctx, tx, g.rows)
	} else {
		err = g.saveRows(ctx, tx, g.rows)
	}
	if err != nil {
		return intake.Saved{}, err
	}
	g.conclude()
	if err := g.writeStatus(ctx); err != nil {
		return intake.Saved{}, err
	}
	if err := tx.Commit(ctx); err != nil {
		return intake.Saved{}, err
	}
	return intake.Saved{Outcomes: g.outcomes, Keys: g.keys(), Timeline: timeline(conn.Conn())}, nil
}

// rollback ends what was not committed. If it can't, pgx closes the connection.
func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = tx.Rollback(ctx) // an error here follows one that is returned, or a commit
}

// endStopped ends the sessions of processes that were stopped, or lost their
// network, in the middle of a COPY. Neither statement_timeout nor
// idle_in_transaction_session_timeout ends a session that waits for the next
// piece of one, so the keys of its transaction would be held for as long as the
// connection is open. No COPY that goes on gets as old as that.
func (s *Store) endStopped(ctx context.Context) {
	const query = `
		select pg_terminate_backend(pid)
		  from pg_stat_activity
		 where application_name = current_setting('application_name')
		   and usename = current_user and datname = current_database()
		   and state = 'active' and wait_event = 'ClientRead'
		   and query_start < clock_timestamp() - current_setting('statement_timeout')::interval`
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, _ = s.pool.Exec(ctx, query) // what is not ended now is ended at the next try
}

// findFinished answers those chunks that an earlier delivery has finished.
func (g *gathering) findFinished(ctx context.Context) error {
	ids := make([]uuid.UUID, len(g.chunks))
	for i, chunk := range g.chunks {
		ids[i] = chunk.Batch
	}
	finished, err := readOutcomes(ctx, g.tx, ids)
	if err != nil {
		return err
	}
	if len(finished) == 0 {
		return nil
	}
	at := make(map[chunkKey]int, len(finished))
	for i, outcome := range finished {
		at[chunkKey{outcome.Batch, outcome.Chunk}] = i
	}
	for i, chunk := range g.chunks {
		if j, ok := at[chunkKey{chunk.Batch, chunk.Number}]; ok {
			g.outcomes[i], g.final[i] = finished[j], true
		}
	}
	return nil
}

// lineUp puts the items to be saved in the order of their keys, in which every
// transaction inserts, so that two of them can't wait for each other.
func (g *gathering) lineUp() {
	n := 0
	for _, chunk := range g.chunks {
		n += len(chunk.Clients)
	}
	g.rows = make([]row, 0, n)
	for i, chunk := range g.chunks {
		if g.final[i] || g.first[i] != i {
			continue
		}
		for j := range chunk.Clients {
			g.rows = append(g.rows, row{chunk: chunk, client: &chunk.Clients[j]})
		}
	}
	slices.SortStableFunc(g.rows, func(a, b row) int {
		if a.chunk.Partner != b.chunk.Partner {
			return cmp.Compare(a.chunk.Partner, b.chunk.Partner)
		}
		return strings.Compare(a.client.ID, b.client.ID)
	})
}

// saveCarefully saves rows of which at least one is refused: it halves them
// until each refused one stands alone.
func (g *gathering) saveCarefully(ctx context.Context, tx pgx.Tx, rows []row) error {
	if len(rows) == 0 {
		return nil
	}
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	err = g.saveRows(ctx, savepoint, rows)
	if err == nil {
		return savepoint.Commit(ctx)
	}
	if reactionTo(err) != halve {
		return err
	}
	if err := savepoint.Rollback(ctx); err != nil {
		return err
	}
	if len(rows) == 1 {
		rows[0].verdict = intake.Refused(refusal(err))
		return nil
	}
	half := len(rows) / 2
	if err := g.saveCarefully(ctx, tx, rows[:half]); err != nil {
		return err
	}
	return g.saveCarefully(ctx, tx, rows[half:])
}

// saveRows saves rows, in the order of their keys, or none of them.
func (g *gathering) saveRows(ctx context.Context, tx pgx.Tx, rows []row) error {
	if len(rows) == 0 {
		return nil
	}
	if err := insertClients(ctx, tx, rows); err != nil {
		return err
	}
	if err := g.copyClaims(ctx, tx, rows); err != nil {
		return err
	}
	return findOwners(ctx, tx, rows)
}

// insertClients inserts the clients whose keys are free, and gives those rows
// their clientID.
func insertClients(ctx context.Context, tx pgx.Tx, rows []row) error {
	const query = `
		insert into partner_clients
		       (partner_id, partner_client_id, entity_type, client_start_date, other_identifiers, fingerprint, batch_id, item)
		select * from unnest($1::int[], $2::text[], $3::text[], $4::timestamptz[], $5::jsonb[], $6::uuid[], $7::uuid[], $8::int[])
		on conflict on constraint partner_clients_key do nothing
		returning id, batch_id, item`
	n := len(rows)
	var (
		partners     = make([]int32, n)
		ids          = make([]string, n)
		types        = make([]string, n)
		starts       = make([]*time.Time, n)
		identifiers  = make([]json.RawMessage, n)
		fingerprints = make([][16]byte, n)
		batches      = make([][16]byte, n)
		items        = make([]int32, n)
	)
	for i := range rows {
		rows[i].clientID, rows[i].verdict = 0, intake.Verdict{}
		client := rows[i].client
		partners[i], ids[i], types[i] = rows[i].chunk.Partner, client.ID, client.EntityType
		if client.StartDate != intake.NoTimestamp {
			t := time.UnixMicro(int64(client.StartDate))
			starts[i] = &t
		}
		identifiers[i] = client.OtherIdentifiers
		fingerprints[i], batches[i], items[i] = client.Fingerprint, rows[i].chunk.Batch, int32(client.Item)
	}
	inserted, err := tx.Query(ctx, query, partners, ids, types, starts, identifiers, fingerprints, batches, items)
	if err != nil {
		return err
	}
	// They come back in the order in which they went in, less those that were
	// there already.
	next := 0
	var (
		id    int64
		batch [16]byte
		item  int32
	)
	_, err = pgx.ForEachRow(inserted, []any{&id, &batch, &item}, func() error {
		for next < n && (batches[next] != batch || items[next] != item) {
			next++
		}
		if next == n {
			return errors.New("postgres returned inserted clients in another order than they were given")
		}
		row := &rows[next]
		row.clientID, row.verdict, row.saved = id, intake.Verdict{Code: intake.CodeSaved}, row.client.Fingerprint
		return nil
	})
	return err
}

// copyClaims writes the claims of the clients that were just inserted.
func (g *gathering) copyClaims(ctx context.Context, tx pgx.Tx, rows []row) error {
	g.copied = append(g.copied[:0], copyHeader...)
	for i := range rows {
		if rows[i].clientID != 0 {
			g.copied = appendClaims(g.copied, rows[i].clientID, rows[i].chunk.Currency, rows[i].client.Claims)
		}
	}
	if len(g.copied) == len(copyHeader) {
		return nil
	}
	g.copied = append(g.copied, copyTrailer...)
	_, err := tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(g.copied), copyClaims)
	return err
}

// findOwners decides the rows that were not inserted by who has their keys. It
// is a statement of its own because the insert's snapshot may be older than the
// record that stood in its way.
func findOwners(ctx context.Context, tx pgx.Tx, rows []row) error {
	const query = `
		select wanted.n, c.fingerprint, c.batch_id, c.item
		  from unnest($1::int[], $2::text[]) with ordinality wanted (partner_id, partner_client_id, n)
		  join partner_clients c using (partner_id, partner_client_id)`
	var (
		beaten   []*row
		partners []int32
		ids      []string
	)
	for i := range rows {
		if rows[i].clientID == 0 {
			beaten = append(beaten, &rows[i])
			partners = append(partners, rows[i].chunk.Partner)
			ids = append(ids, rows[i].client.ID)
		}
	}
	if len(beaten) == 0 {
		return nil
	}
	owners, err := tx.Query(ctx, query, partners, ids)
	if err != nil {
		return err
	}
	found := 0
	var (
		n           int64
		fingerprint [16]byte
		batch       [16]byte
		item        int32
	)
	_, err = pgx.ForEachRow(owners, []any{&n, &fingerprint, &batch, &item}, func() error {
		row := beaten[n-1]
		row.saved = fingerprint
		if batch == row.chunk.Batch && int(item) == row.client.Item {
			row.verdict = intake.Verdict{Code: intake.CodeSaved}
		} else {
			row.verdict = intake.DuplicateOfSaved(row.saved == row.client.Fingerprint)
		}
		found++
		return nil
	})
	if err == nil && found < len(beaten) {
		err = fmt.Errorf("%d records were deleted while their duplicates were being judged", len(beaten)-found)
	}
	return err
}

// conclude gathers the verdicts on the items into the outcomes of the chunks.
func (g *gathering) conclude() {
	at := make(map[*intake.Chunk]*intake.Outcome, len(g.chunks))
	for i, chunk := range g.chunks {
		if !g.final[i] {
			g.outcomes[i].NotSaved = slices.Clone(chunk.Rejected)
			at[chunk] = &g.outcomes[i]
		}
	}
	for i := range g.rows {
		row := &g.rows[i]
		if row.verdict.Code != intake.CodeSaved {
			outcome := at[row.chunk]
			outcome.NotSaved = append(outcome.NotSaved, intake.ItemVerdict{Item: row.client.Item, Verdict: row.verdict})
		}
	}
	for i := range g.chunks {
		if !g.final[i] {
			slices.SortFunc(g.outcomes[i].NotSaved, func(a, b intake.ItemVerdict) int { return cmp.Compare(a.Item, b.Item) })
		}
		g.outcomes[i] = g.outcomes[g.first[i]]
	}
}

// keys lists what Postgres holds now of what was asked for.
func (g *gathering) keys() []intake.SavedKey {
	keys := make([]intake.SavedKey, 0, len(g.rows))
	for i := range g.rows {
		row := &g.rows[i]
		if row.verdict.Code != intake.CodeRefused {
			keys = append(keys, intake.SavedKey{Partner: row.chunk.Partner, ID: row.client.ID, Fingerprint: row.saved})
		}
	}
	return keys
}
