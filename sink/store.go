// Package sink is the data store: it saves chunks of partner clients and their
// revenue claims in Postgres, each exactly once, and keeps how each ended. The
// partners and their secrets are there too.
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
	// URL of the database, as pgx reads it: postgres://user:password@host/database.
	URL string
	// MaxConns bounds the connections; 4 when zero.
	MaxConns int
	// StatementTimeout bounds each statement, in Postgres; 60 s when zero.
	StatementTimeout time.Duration
	// RefuseUnsafe has the store use no server that may lose what it says it has
	// committed. It fails with a *safety.Breach for each reason then.
	RefuseUnsafe bool
	// NeedSchema has the store use no schema that is older than this program's: it
	// fails until Migrate has been called. With RefuseUnsafe it uses no newer one
	// either, unless it has seen its own before.
	NeedSchema bool
}

// Store is the data store. Any number of goroutines may use it at once.
type Store struct {
	pool        pool
	connections *connections
	ids         clientIDs
	schemaKnown atomic.Bool // it was this program's once
	// silence is how long a save may take, unless the server says that its commit
	// waits for a standby.
	silence time.Duration
	// duplicates tells that the last gathering had items that were saved before,
	// so that the next one may have too.
	duplicates atomic.Bool
}

// Open makes a Store. It connects when a connection is first needed, so it
// fails only for options that can't be right.
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
	set["client_min_messages"] = "notice" // newSession hears of a wait that was cancelled
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
	// A standby takes no records, and its timeline changes under an open
	// connection when it is promoted.
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

// closeTimeout bounds the goodbye to a server.
const closeTimeout = time.Second

// Close closes all connections once they are free, and cuts those that are not
// after a second.
func (s *Store) Close() {
	late := time.AfterFunc(closeTimeout, s.connections.cutAll)
	defer late.Stop()
	s.pool.Close()
}

// Ping checks that the data store answers, has its schema, and can commit. It may
// return ErrStandbyAway.
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
