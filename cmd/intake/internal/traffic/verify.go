package traffic

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"intake"
)

// Verified is the result of comparing answers with the data store.
type Verified struct {
	Batches int `json:"batches"` // that had something queued
	Items   int `json:"items"`
	// Pending counts items that were pending in their answer, and are final now.
	Pending int `json:"pending"`
	// Wrong counts answers that contradict the data store. The first ten are in
	// Examples.
	Wrong    int      `json:"wrong"`
	Examples []string `json:"examples,omitempty"`
}

// Verify compares the answers of a replay with the data store: of every batch,
// exactly the items answered Completed must be saved from that batch. The replay
// must have been run with Keep.
func Verify(ctx context.Context, postgresURL string, report *Report) (*Verified, error) {
	conn, err := pgx.Connect(ctx, postgresURL)
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	v := &Verified{}
	batches := make(map[string]*judged, len(report.kept))
	var ids []string
	for i := range report.kept {
		if batch := &report.kept[i]; batch.id != "" {
			batches[batch.id] = batch
			ids = append(ids, batch.id)
			v.Items += len(batch.codes)
		}
	}
	v.Batches = len(batches)
	if err := waitFinished(ctx, conn, ids, v.Items); err != nil {
		return nil, err
	}
	saved, err := savedItems(ctx, conn, ids)
	if err != nil {
		return nil, err
	}
	for id, batch := range batches {
		for item, code := range batch.codes {
			isSaved := saved[place{id, item}]
			switch {
			case code == intake.CodePending:
				v.Pending++
			case isSaved != (code == intake.CodeSaved):
				v.wrong(fmt.Sprintf("item %d of batch %s was answered %s, saved from there: %t", item, id, code,
					isSaved))
			}
			delete(saved, place{id, item})
		}
	}
	for place := range saved {
		v.wrong(fmt.Sprintf("item %d of batch %s is saved, but the batch has no such item", place.item, place.batch))
	}
	return v, nil
}

func (v *Verified) wrong(example string) {
	if v.Wrong++; len(v.Examples) < 10 {
		v.Examples = append(v.Examples, example)
	}
}

// waitFinished waits up to 2 minutes until every item of the batches is final.
func waitFinished(ctx context.Context, conn *pgx.Conn, ids []string, items int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		var finished int
		const query = "select coalesce(sum(items), 0) from batch_status where batch_id = any($1::uuid[]) and not withdrawn"
		if err := conn.QueryRow(ctx, query, ids).Scan(&finished); err != nil {
			return fmt.Errorf("count the final items: %w", err)
		}
		if finished >= items {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%d of %d items are not final: %w", items-finished, items, ctx.Err())
		}
	}
}

type place struct {
	batch string
	item  int
}

// savedItems returns the items of the batches that are saved. It scans the table
// once, as no index leads from a batch to its records.
func savedItems(ctx context.Context, conn *pgx.Conn, ids []string) (map[place]bool, error) {
	const query = `
		select c.batch_id::text, c.item
		  from partner_clients c
		  join unnest($1::uuid[]) wanted (batch_id) using (batch_id)`
	rows, err := conn.Query(ctx, query, ids)
	if err != nil {
		return nil, fmt.Errorf("read the saved items: %w", err)
	}
	saved := make(map[place]bool)
	var p place
	_, err = pgx.ForEachRow(rows, []any{&p.batch, &p.item}, func() error {
		saved[p] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the saved items: %w", err)
	}
	return saved, nil
}
