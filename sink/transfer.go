package sink

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"intake/internal/failpoint"
)

// A transfer writes COPYs and their rows to a connection.
type transfer struct {
	conn   net.Conn
	copies []copyIn
	// beforeLast is called before the rows of the last COPY are encoded.
	beforeLast func()

	buffer  []byte
	message int         // where the message that is being encoded begins in buffer
	refused atomic.Bool // Postgres has answered with an error
}

// transferPiece is the approximate number of bytes in a write.
const transferPiece = 64 << 10

var transferBuffers = sync.Pool{New: func() any { return new([]byte) }}

// send sends copies, with their rows, as one message of the simple protocol, and returns
// the tag of the last statement in it. The SQL of a copy may hold other statements too.
//
// pgx.CopyFrom sends a single COPY, in three writes, and its result must arrive before
// the next one can be sent. Postgres does not need that: it reads the rows of a COPY when
// it gets to it, and skips rows that arrive after an error.
//
// beforeLast is called before the rows of the last COPY are sent, so before any statement
// behind it can begin. If the result doesn't arrive, as when ctx ends, send closes the
// connection.
func send(ctx context.Context, conn *pgx.Conn, beforeLast func(), copies ...copyIn) (pgconn.CommandTag, error) {
	if err := ctx.Err(); err != nil {
		return pgconn.CommandTag{}, err
	}
	buffer, _ := transferBuffers.Get().(*[]byte)
	t := &transfer{conn: conn.PgConn().Conn(), copies: copies, beforeLast: beforeLast, buffer: (*buffer)[:0]}
	interrupt := func() { _ = t.conn.SetDeadline(time.Unix(1, 0)) }
	unwatch := context.AfterFunc(ctx, interrupt)
	written := make(chan error, 1)
	// Postgres must not have to wait for its answers to be read, such as a trigger's
	// notices, before it reads on.
	go func() {
		err := t.write()
		if err != nil {
			interrupt()
		}
		written <- err
	}()
	tag, ready, err := t.receive(conn.PgConn())
	if !ready {
		interrupt()
	}
	if writeErr := <-written; writeErr != nil || !unwatch() || !ready {
		abandon(ctx, conn)
		err = cmp.Or(err, writeErr)
	}
	*buffer = t.buffer
	transferBuffers.Put(buffer)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return tag, err
}

// abandon closes a connection, and cancels what it runs unless that is a commit.
func abandon(ctx context.Context, conn *pgx.Conn) {
	if conn.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.PgConn().CancelRequest(ctx) // statement_timeout bounds what this does not end
	_ = conn.Close(ctx)
}

// receive reads the responses until Postgres is ready for the next statement. ready is
// false if the connection fails before.
func (t *transfer) receive(pg *pgconn.PgConn) (tag pgconn.CommandTag, ready bool, err error) {
	var refusal error
	for {
		msg, err := pg.ReceiveMessage(context.Background())
		if err != nil {
			return tag, false, cmp.Or(refusal, err)
		}
		switch msg := msg.(type) {
		case *pgproto3.CommandComplete:
			tag = pgconn.NewCommandTag(string(msg.CommandTag))
		case *pgproto3.ErrorResponse:
			refusal = pgconn.ErrorResponseToPgError(msg)
			t.refused.Store(true)
		case *pgproto3.ReadyForQuery:
			return tag, true, refusal
		}
	}
}

// write writes everything, or stops after a piece when Postgres has refused one.
func (t *transfer) write() error {
	t.begin('Q')
	for _, rows := range t.copies {
		t.buffer = append(append(t.buffer, rows.sql...), "; "...)
	}
	t.buffer = append(t.buffer, 0)
	t.end()
	for n, rows := range t.copies {
		if n == len(t.copies)-1 {
			if failpoint.Enabled { // the mark is behind rows that are written
				if err := t.flush(); err != nil {
					return err
				}
			}
			t.beforeLast()
		}
		t.begin('d')
		t.buffer = append(t.buffer, copyHeader...)
		for i := range rows.n {
			t.buffer = rows.append(t.buffer, i)
			if len(t.buffer) < transferPiece {
				continue
			}
			t.end()
			if err := t.flush(); err != nil || t.refused.Load() {
				return err
			}
			t.begin('d')
		}
		t.buffer = append(t.buffer, copyTrailer...)
		t.end()
		t.begin('c')
		t.end()
	}
	return t.flush()
}

// begin begins a message: its type, and its length, which end sets.
func (t *transfer) begin(kind byte) {
	t.message = len(t.buffer)
	t.buffer = append(t.buffer, kind, 0, 0, 0, 0)
}

func (t *transfer) end() {
	binary.BigEndian.PutUint32(t.buffer[t.message+1:], uint32(len(t.buffer)-t.message-1))
}

func (t *transfer) flush() error {
	_, err := t.conn.Write(t.buffer)
	t.buffer = t.buffer[:0]
	return err
}
