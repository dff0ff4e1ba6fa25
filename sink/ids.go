package sink

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
)

// idBlock is the number of ids in a block, by which the sequence partner_client_blocks
// is incremented.
const idBlock = 1 << 16

// clientIDs assigns ids to clients, from one block at a time.
type clientIDs struct {
	mu sync.Mutex
	// timeline is the one that the block was taken from. On another one the sequence
	// may have gone back, and another process may have the same block.
	timeline  string
	next, end int64
}

// assign sets consecutive ids in the rows. No other client ever gets the same id.
func (c *clientIDs) assign(ctx context.Context, conn *pgx.Conn, rows []row) error {
	n := int64(len(rows))
	if n > idBlock {
		return fmt.Errorf("a gathering has %d clients, more than the %d of one transaction", n, idBlock)
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

// drop discards the block.
func (c *clientIDs) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end = c.next
}
