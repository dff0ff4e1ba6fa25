package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"unsafe"

	"github.com/bytedance/sonic"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// The grouped peer is what an able engineer writes in a day: one process with a fast JSON
// library, in which two savers each save all that waits in one transaction. There is no
// timer: a lone request is saved at once.
type grouped struct {
	mu      sync.Mutex
	more    sync.Cond
	waiting []*groupedBatch
	closed  bool

	bodies sync.Pool // of *bytes.Buffer
}

const (
	groupedSavers = 2
	groupedItems  = 5_000 // most items of a transaction that has several requests
)

// A groupedBatch is a request that waits for its commit.
type groupedBatch struct {
	items []peerItem
	saved chan error
}

func serveGrouped(ctx context.Context, url string) error {
	if err := sonic.Pretouch(reflect.TypeFor[[]peerItem]()); err != nil {
		return err
	}
	g := &grouped{bodies: sync.Pool{New: func() any { return new(bytes.Buffer) }}}
	g.more.L = &g.mu
	group, ctx := errgroup.WithContext(ctx)
	for range groupedSavers {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		group.Go(func() error {
			defer conn.Close(context.WithoutCancel(ctx))
			return g.saveAll(conn)
		})
	}
	stop := context.AfterFunc(ctx, g.close)
	defer stop()
	group.Go(func() error { return servePeer(ctx, g.create) })
	return group.Wait()
}

func (g *grouped) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.more.Broadcast()
}

func (g *grouped) create(w http.ResponseWriter, r *http.Request) {
	body := g.bodies.Get().(*bytes.Buffer)
	body.Reset()
	defer g.bodies.Put(body)
	if r.ContentLength > 0 {
		body.Grow(int(min(r.ContentLength, 32<<20)) + bytes.MinRead)
	}
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, 32<<20)); err != nil && !errors.Is(err, io.EOF) {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// Strings of the items are parts of the body, which nobody writes to until the
	// answer is written.
	text := unsafe.String(unsafe.SliceData(body.Bytes()), body.Len())
	batch := &groupedBatch{saved: make(chan error, 1)}
	var data []sonic.NoCopyRawMessage
	err := sonic.UnmarshalString(text, &batch.items)
	if err == nil && echoes(r) {
		err = sonic.UnmarshalString(text, &data)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	judge(batch.items)
	g.mu.Lock()
	g.waiting = append(g.waiting, batch)
	g.mu.Unlock()
	g.more.Signal()
	if err := <-batch.saved; err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	size := 64 * len(batch.items)
	if data != nil {
		size += body.Len()
	}
	writeAnswer(w, answer(make([]byte, 0, size), batch.items, data))
}

// take waits for requests, and returns all that wait, up to groupedItems.
func (g *grouped) take() (taken []*groupedBatch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.waiting) == 0 && !g.closed {
		g.more.Wait()
	}
	items := 0
	for len(g.waiting) > 0 && (items == 0 || items+len(g.waiting[0].items) <= groupedItems) {
		items += len(g.waiting[0].items)
		taken, g.waiting = append(taken, g.waiting[0]), g.waiting[1:]
	}
	return taken
}

func (g *grouped) saveAll(conn *pgx.Conn) error {
	for {
		taken := g.take()
		if taken == nil {
			return nil
		}
		// A request that is aborted must not abort the others' transaction.
		err := saveGroup(context.Background(), conn, taken)
		for _, batch := range taken {
			batch.saved <- err
		}
	}
}

func saveGroup(ctx context.Context, conn *pgx.Conn, taken []*groupedBatch) error {
	var valid []*peerItem
	for _, batch := range taken {
		for i := range batch.items {
			if batch.items[i].code == "saved" {
				valid = append(valid, &batch.items[i])
			}
		}
	}
	if len(valid) == 0 {
		return nil
	}
	slices.SortStableFunc(valid, func(a, b *peerItem) int { return cmp.Compare(a.ID, b.ID) })
	// Of those with the same key, the first one wins.
	first := valid[:1]
	for _, item := range valid[1:] {
		if item.ID == first[len(first)-1].ID {
			item.code = "duplicate_of_saved"
		} else {
			first = append(first, item)
		}
	}
	claims, err := insertGroup(ctx, conn, first)
	if err == nil && len(claims.clients) > 0 {
		_, err = conn.CopyFrom(ctx, pgx.Identifier{"claims"}, claimColumns, claims)
	}
	if err != nil {
		_, rollback := conn.Exec(ctx, "rollback")
		return errors.Join(err, rollback)
	}
	_, err = conn.Exec(ctx, "commit")
	return err
}

// insertGroup begins the transaction and inserts the clients in one round trip.
func insertGroup(ctx context.Context, conn *pgx.Conn, items []*peerItem) (*claimRows, error) {
	batch := new(pgx.Batch)
	batch.Queue("begin")
	batch.Queue(insertClients, clientColumns(items)...)
	answers := conn.SendBatch(ctx, batch)
	defer answers.Close()
	if _, err := answers.Exec(); err != nil {
		return nil, err
	}
	rows, err := answers.Query()
	if err != nil {
		return nil, err
	}
	claims, err := claimsToCopy(rows, items)
	if err != nil {
		return nil, err
	}
	return claims, answers.Close()
}
