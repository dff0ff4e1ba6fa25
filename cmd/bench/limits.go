package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"intake"
	"intake/internal/decode"
)

// limitConns is the number of connections that a worker saves with.
const limitConns = 2

// limits measures Postgres alone, in claims a second: the bare save, which is the data
// store's own with decoded items, 1,000 items of twelve months a transaction; and the raw
// COPY of the same claims.
func (b *bench) limits(ctx context.Context, s shape, file string) (bare, raw float64, err error) {
	items := 1_000
	if s.Claims > 100 {
		items = 100
	}
	clients, err := readClients(file, items)
	if err != nil {
		return 0, 0, err
	}
	claims := 0
	for i := range clients {
		claims += len(clients[i].Claims)
	}
	duration := b.seconds / 2
	saves, err := during(ctx, duration, func(ctx context.Context) error { return b.saveBare(ctx, clients) })
	if err != nil {
		return 0, 0, err
	}
	rows, err := b.copyOut(ctx, claims)
	if err != nil {
		return 0, 0, err
	}
	copies, err := b.copyRaw(ctx, duration, rows)
	if err != nil {
		return 0, 0, err
	}
	return saves * float64(claims), copies * float64(claims), nil
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
	chunk := &intake.Chunk{Batch: uuid.Must(uuid.NewV7()), Chunks: 1, Partner: 1, Currency: "GBP", Len: len(clients), Clients: make([]intake.PartnerClient, len(clients))}
	copy(chunk.Clients, clients)
	for i := range chunk.Clients {
		chunk.Clients[i].ID = round + chunk.Clients[i].ID
	}
	_, err := b.store.Save(ctx, []*intake.Chunk{chunk})
	return err
}

// copyOut reads claims in the format of COPY.
func (b *bench) copyOut(ctx context.Context, claims int) ([]byte, error) {
	var rows bytes.Buffer
	_, err := b.bare.PgConn().CopyTo(ctx, &rows, fmt.Sprintf("copy (select * from revenue_claims limit %d) to stdout (format binary)", claims))
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
		conn, err := pgx.Connect(ctx, b.databaseURL("bare"))
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
