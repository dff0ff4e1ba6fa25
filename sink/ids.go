package sink

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
)

// idBlock is how many ids a number of partner_client_blocks stands for.
const idBlock = 1 << 16

// clientIDs hands out ids for clients. It holds those of a block at a time.
type clientIDs struct {
	mu sync.Mutex
	// timeline is the one that the block was taken from. On another one the
	// sequence may have gone back, and others may have been given the same block.
	timeline  string
	next, end int64
}

// assign gives the rows consecutive ids, each of which no other client ever has.
func (c *clientIDs) assign(ctx context.Context, conn *pgx.Conn, rows []row) error {
	n := int64(len(rows))
	if n > idBlock {
		return fmt.Errorf("%d clients are more than one transaction may insert", n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := sessionOf(conn).timeline; c.timeline != now || c.end-c.next < n {
		if err := conn.QueryRow(ctx, "select nextval('partner_client_blocks')").Scan(&c.next); err != nil {
			c.end = c.next
			return err
		}
		c.timeline, c.end = now, c.next+idBlock
	}
	for i := range rows {
		rows[i].id = c.next
		c.next++
	}
	return nil
}

// drop gives up the block.
func (c *clientIDs) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end = c.next
}
