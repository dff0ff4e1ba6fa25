package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"intake"
	"intake/internal/decode"
	"intake/sink"
)

// limits are rates of Postgres alone, in items a second.
type limits struct {
	// Bare is the data store's own save with decoded items, 1,000 items a transaction.
	Bare float64 `json:"bare_save_items_per_second"`
	// Copy is the raw COPY of the same claims into a table without keys.
	Copy float64 `json:"raw_copy_items_per_second"`
}

// limitConns is the number of connections that a worker saves with.
const limitConns = 2

// limits measures Postgres alone, in a database of its own.
func (b *bench) limits(ctx context.Context, s shape) (*limits, error) {
	file, err := b.file(ctx, cell{shape: s})
	if err != nil {
		return nil, err
	}
	clients, err := readClients(file, 1_000)
	if err != nil {
		return nil, err
	}
	if b.bare == nil {
		if b.bareURL, b.bare, err = b.database(ctx, "bare"); err != nil {
			return nil, err
		}
		if _, _, err := sink.Migrate(ctx, b.bareURL); err != nil {
			return nil, err
		}
		if b.store, err = sink.Open(ctx, sink.Options{URL: b.bareURL}); err != nil {
			return nil, err
		}
		b.stops = append(b.stops, func(context.Context) error { b.store.Close(); return nil })
	}
	var saves, copies []float64
	rows, claims := []byte(nil), len(clients)*s.Claims
	for range b.rounds {
		rate, err := during(ctx, b.seconds/2, func(ctx context.Context) error { return b.saveBare(ctx, clients) })
		if err != nil {
			return nil, err
		}
		saves = append(saves, rate*float64(len(clients)))
		if rows == nil {
			if rows, err = b.copyOut(ctx, claims); err != nil {
				return nil, err
			}
		}
		if rate, err = b.copyRaw(ctx, b.seconds/2, rows); err != nil {
			return nil, err
		}
		copies = append(copies, rate*float64(len(clients)))
	}
	return &limits{spreadOf(saves).Median, spreadOf(copies).Median}, nil
}

func (l *limits) print(out io.Writer) {
	fmt.Fprintf(out, "\nPostgres alone, 1,000 × 12: bare save %.0f items/s, raw COPY %.0f items/s\n", l.Bare, l.Copy)
}

// during calls a function on limitConns goroutines, and returns the calls a second.
func during(ctx context.Context, duration time.Duration, once func(context.Context) error) (float64, error) {
	var done atomic.Int64
	var failed error
	var fail sync.Once
	var wg sync.WaitGroup
	began := time.Now()
	for range limitConns {
		wg.Go(func() {
			for time.Since(began) < duration {
				if err := once(ctx); err != nil {
					fail.Do(func() { failed = err })
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(done.Load()) / time.Since(began).Seconds(), failed
}

// readClients reads a number of valid clients from a file of batches.
func readClients(file string, n int) (clients []intake.PartnerClient, err error) {
	source, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	decoder := json.NewDecoder(source)
	for len(clients) < n {
		var batch json.RawMessage
		if err := decoder.Decode(&batch); err != nil {
			return nil, fmt.Errorf("%s has %d items, %d are needed: %w", file, len(clients), n, err)
		}
		items, err := decode.Batch(batch, &intake.Partner{ID: 1, Currency: "GBP"}, time.Now())
		if err != nil {
			return nil, err
		}
		for i := range items {
			if items[i].Errors == "" && len(clients) < n {
				clients = append(clients, items[i].Client)
				clients[len(clients)-1].Item = len(clients) - 1
			}
		}
	}
	return clients, nil
}

var bareRounds atomic.Int64

// saveBare saves clients under new keys, as one chunk.
func (b *bench) saveBare(ctx context.Context, clients []intake.PartnerClient) error {
	round := strconv.FormatInt(bareRounds.Add(1), 36) + "-"
	chunk := &intake.Chunk{
		Batch: uuid.Must(uuid.NewV7()), Chunks: 1, Partner: 1, Currency: "GBP",
		Len: len(clients), Clients: slices.Clone(clients),
	}
	for i := range chunk.Clients {
		chunk.Clients[i].ID = round + chunk.Clients[i].ID
	}
	_, err := b.store.Save(ctx, []*intake.Chunk{chunk})
	return err
}

// copyOut reads claims in the format of COPY.
func (b *bench) copyOut(ctx context.Context, claims int) ([]byte, error) {
	var rows bytes.Buffer
	query := fmt.Sprintf("copy (select * from revenue_claims limit %d) to stdout (format binary)", claims)
	_, err := b.bare.PgConn().CopyTo(ctx, &rows, query)
	return rows.Bytes(), err
}

// copyRaw copies the same rows repeatedly, and returns the copies a second.
func (b *bench) copyRaw(ctx context.Context, duration time.Duration, rows []byte) (float64, error) {
	const table = "drop table if exists raw_claims; create table raw_claims (like revenue_claims)"
	if _, err := b.bare.Exec(ctx, table); err != nil {
		return 0, err
	}
	conns := make(chan *pgx.Conn, limitConns)
	for range limitConns {
		conn, err := pgx.Connect(ctx, b.bareURL)
		if err != nil {
			return 0, err
		}
		defer conn.Close(ctx)
		conns <- conn
	}
	return during(ctx, duration, func(ctx context.Context) error {
		conn := <-conns
		defer func() { conns <- conn }()
		_, err := conn.PgConn().CopyFrom(ctx, bytes.NewReader(rows), "copy raw_claims from stdin (format binary)")
		return err
	})
}
