// Package sink is the data store. It saves chunks of partner clients and their revenue
// claims in Postgres, each exactly once, and keeps their outcomes. It also holds the
// partners, their secrets, the keys that sign access tokens, and the Idempotency-Keys.
//
// # How chunks are saved
//
// [Store.Save] saves a gathering of chunks, of any batches and partners, in one
// transaction:
//
//  1. The clients whose keys are free are inserted, in the order of their keys, so that
//     two transactions cannot deadlock.
//  2. A second statement reads who owns the other keys. The first one's snapshot may be
//     older than the record that was in its way. A record that was saved from the same
//     item of the same batch makes the item Completed, any other record makes it a
//     Duplicate.
//  3. The claims of the inserted clients are copied.
//  4. One row per chunk is copied into batch_status, with the verdicts. Its primary key
//     is the batch and the chunk's number, so no chunk is ever finished twice.
//  5. Commit.
//
// A chunk that is delivered again finds its row in batch_status and gets the outcome
// from there: final states never change. An error of the data (SQLSTATE classes 22 and
// 23) is located by halving the gathering; the guilty item is refused and all others are
// saved. Any other error fails the gathering as a whole, and no item: the caller retries.
//
// # Round trips
//
// Most gatherings hold no duplicate, so Save first tries the optimistic way: it assumes
// that all keys are free, takes ids from a block, and copies the clients too. That takes
// one round trip, because one message of the simple protocol may hold several COPYs (see
// [send]): "begin; copy partner_clients …; copy client_claims …; copy batch_status …;
// commit". If the assumption is wrong, a unique constraint says so, and Save goes on in
// the standard way, which inserts with ON CONFLICT DO NOTHING.
//
// # Claims
//
// All claims of a client are one row of client_claims, in arrays. A row for each claim
// takes twice the room and WAL, and Postgres spends most of a save on forming such rows.
// The view revenue_claims shows a row for each claim.
//
// # Binary COPY
//
// Rows are written straight into the binary format of COPY (copy.go). pgx.CopyFrom would
// encode each value through an interface and its type map, which takes some 30 times as
// long and 14 allocations a claim rather than none (BenchmarkAppendClaims).
//
// # Synchronous standby
//
// If Postgres has one, a commit counts only once the standby has it; see standby.go.
package sink

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Options of a Store. Only URL is required.
type Options struct {
	// URL is the database's, in the form that pgx reads: postgres://user:password@host/database.
	URL string
	// MaxConns is the maximum size of the pool. The default is 4.
	MaxConns int
	// StatementTimeout bounds each statement, in Postgres. The default is 60 s.
	StatementTimeout time.Duration
	// RefuseUnsafe rejects a server that may lose what it has committed. The error
	// holds a [safety.Breach] per reason.
	RefuseUnsafe bool
	// NeedSchema rejects a schema that is older than this program's, until [Migrate]
	// has been called. With RefuseUnsafe it rejects a newer one as well, unless this
	// Store has seen its own version before.
	NeedSchema bool
}

// A Store is the data store. It is safe for concurrent use.
type Store struct {
	pool        pool
	connections *connections
	ids         clientIDs
	schemaKnown atomic.Bool // it was this program's once
	// silence bounds a save, except for the time that its commit waits for a standby.
	silence time.Duration
	// duplicates is set if the last gathering had items that were saved before: the
	// next one is likely to have some too.
	duplicates atomic.Bool
}

// Open returns a Store. It connects when a connection is first needed, so it fails
// only for invalid options.
func Open(ctx context.Context, opts Options) (*Store, error) {
	config, err := pgxpool.ParseConfig(opts.URL)
	if err != nil {
		return nil, fmt.Errorf("read the Postgres URL: %w", err)
	}
	config.MaxConns = int32(opts.MaxConns)
	if config.MaxConns <= 0 {
		config.MaxConns = 4
	}
	statementTimeout := opts.StatementTimeout
	if statementTimeout <= 0 {
		statementTimeout = time.Minute
	}
	set := config.ConnConfig.RuntimeParams
	set["application_name"] = "intake"
	set["client_min_messages"] = "notice" // newSession needs the notice of a cancelled wait
	set["timezone"] = "UTC"
	set["statement_timeout"] = fmt.Sprint(statementTimeout.Milliseconds())
	// A process that was stopped in the middle of a transaction must not keep
	// others from the keys that it holds.
	set["idle_in_transaction_session_timeout"] = "10000"
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	connections := &connections{open: make(map[*connection]struct{})}
	config.ConnConfig.DialFunc = connections.dialer(config.ConnConfig.DialFunc)
	config.BeforeConnect = newSession
	config.HealthCheckPeriod = 5 * time.Second
	// A standby is read-only, and its timeline changes under an open connection when
	// it is promoted.
	config.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	s := &Store{connections: connections, silence: 2 * time.Minute}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if err := s.admit(ctx, conn, opts); err != nil {
			return err
		}
		return readTimeline(ctx, conn)
	}
	if s.pool.Pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("open the Postgres pool: %w", err)
	}
	return s, nil
}

// closeTimeout bounds the wait for connections in use.
const closeTimeout = time.Second

// Close closes all connections. Those in use have a second to be released.
func (s *Store) Close() {
	late := time.AfterFunc(closeTimeout, s.connections.cutAll)
	defer late.Stop()
	s.pool.Close()
}

// Ping checks that the data store answers, has its schema, and can commit. It returns
// [ErrStandbyAway] while commits wait for a standby.
func (s *Store) Ping(ctx context.Context) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	var n int
	if err := conn.QueryRow(ctx, "select count(*) from (select from batch_status limit 1) t").Scan(&n); err != nil {
		return err
	}
	return checkStandby(ctx, conn.Conn())
}
