package main

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The naive peer is the obvious implementation: it decodes the request with
// encoding/json, validates it, and saves it in a transaction of its own.
type naive struct{ pool *pgxpool.Pool }

func serveNaive(ctx context.Context, url string) error {
	pool, err := pgxpool.New(ctx, url) // with the default number of connections
	if err != nil {
		return err
	}
	defer pool.Close()
	return servePeer(ctx, naive{pool}.create)
}

func (n naive) create(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var items []peerItem
	var data []jsonText
	if err = json.Unmarshal(body, &items); err == nil && echoes(r) {
		err = json.Unmarshal(body, &data)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	judge(items)
	if err := n.save(r.Context(), items); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeAnswer(w, answer(nil, items, data))
}

func (n naive) save(ctx context.Context, items []peerItem) error {
	var valid []*peerItem
	for i := range items {
		if items[i].code == "saved" {
			valid = append(valid, &items[i])
		}
	}
	// In the order of their keys, so that two transactions cannot deadlock.
	slices.SortFunc(valid, func(a, b *peerItem) int { return cmp.Compare(a.ID, b.ID) })
	return pgx.BeginFunc(ctx, n.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, insertClients, clientColumns(valid)...)
		if err != nil {
			return err
		}
		claims, err := claimsToCopy(rows, valid)
		if err != nil {
			return err
		}
		_, err = tx.CopyFrom(ctx, pgx.Identifier{"claims"}, claimColumns, claims)
		return err
	})
}
