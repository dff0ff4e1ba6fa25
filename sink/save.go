package sink

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"intake"
	"intake/internal/failpoint"
)

// Save saves a gathering of chunks, of any batches and partners, in one transaction,
// and returns once it is committed. An item that Postgres has already is a Duplicate, or
// Completed if it was saved from the same item of the same batch. An item whose data
// Postgres refuses is Refused, and all others are saved. A chunk that was finished
// before gets the outcome that it got then.
//
// An error means that nothing is known to be saved: retry with the same chunks. It wraps
// [intake.ErrUnsavable] if Postgres answers, so that a retry fails until someone changes
// Postgres. It is an [*intake.UnknownPartnerError] if a chunk's partner isn't there.
func (s *Store) Save(ctx context.Context, chunks []*intake.Chunk) (intake.Saved, error) {
	const tries = 5
	how := optimistic
	if s.duplicates.Load() {
		how = standard
	}
	for try := 1; ; try++ {
		saved, err := s.trySave(ctx, chunks, how)
		if err == nil {
			return saved, nil
		}
		if idsTaken(err) {
			s.ids.drop()
		}
		switch reaction := reactionTo(err); {
		case reaction == halve && how < isolating, reaction == tryAgain && how == optimistic:
			how++
		case reaction == tryAgain && try < tries:
		default:
			if timedOut(err) {
				s.endStopped(ctx)
			}
			return intake.Saved{}, fmt.Errorf("save gathering of %d chunks: %w", len(chunks), mark(err))
		}
	}
}

// A manner is a way to save a gathering. Each one saves what the one before cannot.
type manner int

const (
	// optimistic assumes that all keys are free and that no chunk was finished before.
	// It copies clients too, at half the cost.
	optimistic manner = iota
	// standard finds out which keys are free.
	standard
	// isolating also finds out which items Postgres refuses.
	isolating
)

// A gathering is what one transaction saves.
type gathering struct {
	chunks []*intake.Chunk
	// outcomes has one entry per chunk. It is an earlier transaction's where final is
	// set.
	outcomes []intake.Outcome
	final    []bool
	// first has the first index of each chunk in chunks. A chunk may be there twice if
	// it is delivered again.
	first []int
	rows  []row
}

func newGathering(chunks []*intake.Chunk) *gathering {
	n := len(chunks)
	g := &gathering{chunks: chunks, outcomes: make([]intake.Outcome, n), final: make([]bool, n), first: make([]int, n)}
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

// A row is an item to save.
type row struct {
	chunk    *intake.Chunk
	client   *intake.PartnerClient
	id       int64 // of the record, if inserted
	inserted bool
	verdict  intake.Verdict
	saved    intake.Fingerprint // of the record that Postgres holds now; zero if refused
}

func (r *row) setInserted() {
	r.inserted, r.verdict, r.saved = true, intake.Verdict{Code: intake.CodeSaved}, r.client.Fingerprint
}

func (s *Store) trySave(ctx context.Context, chunks []*intake.Chunk, how manner) (intake.Saved, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return intake.Saved{}, err
	}
	defer conn.Release()
	defer rollback(ctx, conn.Conn())
	g := newGathering(chunks)
	left, err := g.write(ctx, s, conn.Conn(), how)
	if err == nil {
		err = g.finish(ctx, s, conn.Conn(), left)
	}
	if err != nil {
		return intake.Saved{}, err
	}
	if how != optimistic {
		s.duplicates.Store(slices.ContainsFunc(g.rows, func(r row) bool { return !r.inserted }))
	}
	return intake.Saved{Outcomes: g.outcomes, Keys: g.keys(), Timeline: sessionOf(conn.Conn()).timeline}, nil
}

// write collects the verdicts on the items, and writes records where it must for that. It
// returns the COPYs that are left to do.
func (g *gathering) write(ctx context.Context, s *Store, conn *pgx.Conn, how manner) (left []copyIn, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.silence)
	defer cancel()
	if err := checkPartners(ctx, conn, g.chunks); err != nil {
		return nil, err
	}
	if how == optimistic {
		return g.assumeFree(ctx, s, conn)
	}
	return g.writeEach(ctx, s, conn, how)
}

// assumeFree writes nothing. The COPYs that it returns fail with a unique violation if
// another manner is needed. It fails with errDuplicateKey if that is known before.
func (g *gathering) assumeFree(ctx context.Context, s *Store, conn *pgx.Conn) ([]copyIn, error) {
	g.sortRows()
	if g.hasDuplicateKey() {
		return nil, errDuplicateKey
	}
	if err := s.ids.assign(ctx, conn, g.rows); err != nil {
		return nil, err
	}
	for i := range g.rows {
		g.rows[i].setInserted()
	}
	clients := copyIn{"begin; " + copyClients, len(g.rows),
		func(b []byte, i int) []byte { return appendClient(b, &g.rows[i]) }}
	return []copyIn{clients, claimsOf(g.rows)}, nil
}

// writeEach writes the clients of any gathering, in a transaction that it begins, and
// finds out who owns the others' keys.
func (g *gathering) writeEach(ctx context.Context, s *Store, conn *pgx.Conn, how manner) (left []copyIn, err error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return nil, err
	}
	if err := g.findFinished(ctx, tx); err != nil {
		return nil, err
	}
	g.sortRows()
	if err := s.ids.assign(ctx, conn, g.rows); err != nil {
		return nil, err
	}
	if how == isolating {
		// A constraint that fails at commit could not be attributed to an item.
		if _, err := tx.Exec(ctx, "set constraints all immediate"); err != nil {
			return nil, err
		}
		return nil, g.saveIsolating(ctx, tx, g.rows)
	}
	if err := insertClients(ctx, tx, g.rows); err != nil {
		return nil, err
	}
	return []copyIn{claimsOf(g.rows)}, findOwners(ctx, tx, g.rows)
}

// finish does what is left, writes the outcomes, and commits, in one round trip. It fails
// if another transaction has finished one of the chunks meanwhile.
func (g *gathering) finish(ctx context.Context, s *Store, conn *pgx.Conn, left []copyIn) error {
	g.conclude()
	rows, err := g.statusRows()
	if err != nil {
		return err
	}
	err = s.commit(ctx, conn, append(left, rows.copy())...)
	failpoint.Hit("sink/committed")
	return err
}

// hasDuplicateKey reports whether two rows have the same key. It expects the rows in the
// order of their keys.
func (g *gathering) hasDuplicateKey() bool {
	for i := 1; i < len(g.rows); i++ {
		if a, b := &g.rows[i-1], &g.rows[i]; a.client.ID == b.client.ID && a.chunk.Partner == b.chunk.Partner {
			return true
		}
	}
	return false
}

// rollback ends the transaction unless it is committed. If it fails, the pool closes the
// connection.
func rollback(ctx context.Context, conn *pgx.Conn) {
	if conn.IsClosed() || conn.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, _ = conn.PgConn().Exec(ctx, "rollback").ReadAll() // an error here follows one that is returned
}

// endStopped ends the sessions of processes that were stopped, or lost their network, in
// the middle of a COPY. Neither statement_timeout nor idle_in_transaction_session_timeout
// ends a session that waits for more data of a COPY, so it would hold the keys of its
// transaction until the connection closes. A COPY that makes progress never gets as old as
// statement_timeout. A commit that waits for the standby is not a COPY and is left alone.
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
	_, _ = s.pool.Exec(ctx, query) // the next attempt tries again
}

// findFinished reads the outcomes of chunks that an earlier delivery has finished.
func (g *gathering) findFinished(ctx context.Context, tx pgx.Tx) error {
	ids := make([]uuid.UUID, len(g.chunks))
	for i, chunk := range g.chunks {
		ids[i] = chunk.Batch
	}
	finished, err := readOutcomes(ctx, tx, ids)
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

// sortRows collects the items to save in the order of their keys. All transactions
// insert in this order, so that no two of them can deadlock.
func (g *gathering) sortRows() {
	places := g.places()
	slices.SortFunc(places, func(a, b place) int {
		switch {
		case a.partner != b.partner:
			return cmp.Compare(a.partner, b.partner)
		case a.prefix != b.prefix:
			return cmp.Compare(a.prefix, b.prefix)
		}
		if c := strings.Compare(g.clientAt(a).ID, g.clientAt(b).ID); c != 0 {
			return c
		}
		return cmp.Or(cmp.Compare(a.chunk, b.chunk), cmp.Compare(a.client, b.client))
	})
	g.rows = make([]row, len(places))
	for i, p := range places {
		g.rows[i] = row{chunk: g.chunks[p.chunk], client: g.clientAt(p)}
	}
}

// A place is that of an item in a gathering, with the beginning of its key.
type place struct {
	prefix        uint64 // the first bytes of the client's ID
	partner       int32
	chunk, client int32 // indexes in chunks and in the chunk's Clients
}

func (g *gathering) clientAt(p place) *intake.PartnerClient {
	return &g.chunks[p.chunk].Clients[p.client]
}

// places returns the places of the items to save.
func (g *gathering) places() []place {
	n := 0
	for _, chunk := range g.chunks {
		n += len(chunk.Clients)
	}
	places := make([]place, 0, n)
	for i, chunk := range g.chunks {
		if g.final[i] || g.first[i] != i {
			continue
		}
		for j := range chunk.Clients {
			places = append(places, place{prefixOf(chunk.Clients[j].ID), chunk.Partner, int32(i), int32(j)})
		}
	}
	return places
}

// prefixOf returns the first eight bytes of s as a number, so that a string with a
// smaller one comes first.
func prefixOf(s string) uint64 {
	var b [8]byte
	copy(b[:], s)
	return binary.BigEndian.Uint64(b[:])
}

// saveIsolating saves rows of which Postgres refuses at least one. It halves them until
// each refused row is alone.
func (g *gathering) saveIsolating(ctx context.Context, tx pgx.Tx, rows []row) error {
	if len(rows) == 0 {
		return nil
	}
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	err = saveRows(ctx, savepoint, rows)
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
		rows[0].inserted, rows[0].verdict = false, intake.Refused(refusal(err))
		return nil
	}
	half := len(rows) / 2
	if err := g.saveIsolating(ctx, tx, rows[:half]); err != nil {
		return err
	}
	return g.saveIsolating(ctx, tx, rows[half:])
}

// saveRows saves all rows, which are in the order of their keys, or none of them.
func saveRows(ctx context.Context, tx pgx.Tx, rows []row) error {
	if err := insertClients(ctx, tx, rows); err != nil {
		return err
	}
	if _, err := send(ctx, tx.Conn(), func() {}, claimsOf(rows)); err != nil {
		return err
	}
	return findOwners(ctx, tx, rows)
}

// insertClients inserts the clients whose keys are free.
func insertClients(ctx context.Context, tx pgx.Tx, rows []row) error {
	const query = `
		insert into partner_clients
		       (id, partner_id, partner_client_id, entity_type, client_start_date, other_identifiers, fingerprint, batch_id, item)
		select * from unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::timestamptz[], $6::jsonb[], $7::uuid[], $8::uuid[], $9::int[])
		on conflict on constraint partner_clients_key do nothing
		returning id`
	n := len(rows)
	var (
		recordIDs    = make([]int64, n)
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
		rows[i].inserted, rows[i].verdict = false, intake.Verdict{}
		client := rows[i].client
		recordIDs[i], partners[i], ids[i], types[i] = rows[i].id, rows[i].chunk.Partner, client.ID, client.EntityType
		if client.StartDate != intake.NoTimestamp {
			t := time.UnixMicro(int64(client.StartDate))
			starts[i] = &t
		}
		identifiers[i] = client.OtherIdentifiers
		fingerprints[i], batches[i], items[i] = client.Fingerprint, rows[i].chunk.Batch, int32(client.Item)
	}
	inserted, err := tx.Query(ctx, query, recordIDs, partners, ids, types, starts, identifiers, fingerprints, batches,
		items)
	if err != nil {
		return err
	}
	var id int64
	_, err = pgx.ForEachRow(inserted, []any{&id}, func() error {
		rows[id-rows[0].id].setInserted() // ids were assigned in the order of the rows
		return nil
	})
	return err
}

// claimsOf returns the COPY of the claims of the clients that are inserted.
func claimsOf(rows []row) copyIn {
	return copyIn{copyClaims, len(rows), func(b []byte, i int) []byte {
		if rows[i].inserted {
			b = appendClaims(b, &rows[i])
		}
		return b
	}}
}

// findOwners decides on the rows that were not inserted, by the records that have their
// keys. It is a separate statement because the insert's snapshot may be older than the
// record that was in its way.
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
		if !rows[i].inserted {
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

// conclude sorts the verdicts on the rows into the outcomes of the chunks.
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
			slices.SortFunc(g.outcomes[i].NotSaved, func(a, b intake.ItemVerdict) int {
				return cmp.Compare(a.Item, b.Item)
			})
		}
		g.outcomes[i] = g.outcomes[g.first[i]]
	}
}

// keys returns the keys of the gathering that Postgres holds now.
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
