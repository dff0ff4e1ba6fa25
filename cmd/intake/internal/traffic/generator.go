// Package traffic makes batches that look like a partner's (generator.go), and
// sends batches at a rate (replay.go) to measure an Intake under load. It counts
// states and latencies (report.go), checks them against thresholds, writes them
// as a page (html.go), and compares the answers with the records (verify.go).
package traffic

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"time"
)

// GeneratorOptions say how the batches are. The zero value makes batches of
// 1,000 new clients with twelve monthly claims each.
type GeneratorOptions struct {
	Seed int64
	// BatchItems is how many items a batch has; 1,000 when zero, at most 10,000.
	BatchItems int
	// Claims is how many claims an item has; 12 when zero, none when negative.
	Claims int
	// Daily makes claims of days instead of months.
	Daily    bool
	Currency string // GBP when empty
	// Shares of the items, from 0 to 1: a perfect duplicate of an item of the
	// same batch, one in conflict with another of it, one that is invalid, and
	// one that an earlier batch has with the same data.
	Duplicates, Conflicts, Invalid, SavedBefore float64
}

// A Generator makes batches. The same options make the same batches. It is not
// safe for concurrent use.
type Generator struct {
	opts    GeneratorOptions
	random  *rand.Rand
	periods [][2]string // the first and the last moment of each claim's period
	earlier []byte      // items of earlier batches, to be sent again
	ends    []int       // where each of them ends
	// fromEarlier is how many of them are of earlier batches than the one at
	// hand, and next the index of the one to be sent again next.
	fromEarlier, next int
}

// NewGenerator returns a generator.
func NewGenerator(opts GeneratorOptions) (*Generator, error) {
	if opts.BatchItems == 0 {
		opts.BatchItems = 1_000
	}
	if opts.Claims == 0 {
		opts.Claims = 12
	}
	if opts.Currency == "" {
		opts.Currency = "GBP"
	}
	switch shares := opts.Duplicates + opts.Conflicts + opts.Invalid + opts.SavedBefore; {
	case opts.BatchItems < 1 || opts.BatchItems > 10_000:
		return nil, fmt.Errorf("%d items a batch: a batch has 1 to 10,000", opts.BatchItems)
	case opts.Claims > 1_000:
		return nil, fmt.Errorf("%d claims an item: an item has at most 1,000", opts.Claims)
	case opts.Duplicates < 0 || opts.Conflicts < 0 || opts.Invalid < 0 || opts.SavedBefore < 0 || shares > 1:
		return nil, fmt.Errorf("the shares are %g together: each is at least 0, and all of them at most 1", shares)
	}
	g := &Generator{opts: opts, random: rand.New(rand.NewPCG(uint64(opts.Seed), 0x1b7901db))}
	const layout = "2006-01-02T15:04:05.000Z"
	start := time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC)
	for range max(opts.Claims, 0) {
		next := start.AddDate(0, 1, 0)
		if opts.Daily {
			next = start.AddDate(0, 0, 1)
		}
		g.periods = append(g.periods, [2]string{start.Format(layout), next.Add(-time.Millisecond).Format(layout)})
		start = next
	}
	return g, nil
}

// AppendBatch appends the next batch, without a newline.
func (g *Generator) AppendBatch(b []byte) []byte {
	b = append(b, '[')
	g.fromEarlier = len(g.ends)
	before := -1 // where the item before begins, if nothing shares its key yet
	for n := range g.opts.BatchItems {
		if n > 0 {
			b = append(b, ',')
		}
		at := len(b)
		kind := g.draw()
		switch {
		case kind == duplicate && before >= 0:
			b = append(b, b[before:at-1]...)
		case kind == conflict && before >= 0:
			b = g.appendConflict(b, b[before:at-1])
		case kind == invalid:
			b = g.appendFlawed(b)
		case kind == savedBefore && g.fromEarlier > 0:
			b = g.appendEarlier(b)
		default:
			b = g.appendItem(b)
			g.keep(b[at:])
			before = at
			continue
		}
		before = -1
	}
	return append(b, ']')
}

// A kind is what an item is to be.
type kind int

const (
	fresh kind = iota
	duplicate
	conflict
	invalid
	savedBefore
)

func (g *Generator) draw() kind {
	x := g.random.Float64()
	for k, share := range [...]float64{duplicate: g.opts.Duplicates, conflict: g.opts.Conflicts,
		invalid: g.opts.Invalid, savedBefore: g.opts.SavedBefore} {
		if x < share {
			return kind(k)
		}
		x -= share
	}
	return fresh
}

var entityTypes = []string{"SoleTrader", "LimitedCompany", "Partnership", "Charity"}

// appendItem appends a new client. Turnovers are spread like those of shops: most
// are small, some are a hundred times as large.
func (g *Generator) appendItem(b []byte) []byte {
	b = append(b, `{"partner_client_id":"`...)
	b = g.appendUUID(b)
	b = append(b, `","client_start_date":"`...)
	start := time.Date(2015, 1, 1, 0, 0, 0, 0,
		time.UTC).Add(time.Duration(g.random.Int64N(int64(7 * 365 * 24 * time.Hour))))
	b = start.AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, `","entity_type":"`...)
	b = append(b, entityTypes[g.random.IntN(len(entityTypes))]...)
	b = append(b, `","other_identifiers":[{"key":"MerchantId","values":["`...)
	b = strconv.AppendInt(b, 100_000+g.random.Int64N(900_000), 10)
	b = append(b, `"]}],"revenue_claims":[`...)
	scale := math.Exp(7 + 1.5*g.random.NormFloat64())
	for i, period := range g.periods {
		if i > 0 {
			b = append(b, ',')
		}
		b = g.appendClaim(b, period, scale)
	}
	return append(b, `]}`...)
}

// flaws make an item invalid when the first old text in it is replaced. Those
// from firstClaimFlaw on are in a claim.
var flaws = [...]struct{ old, new string }{
	{`"entity_type":`, `"entity_typo":`},
	{`"entity_type":"`, `"entity_type":"a `},
	{`"client_start_date":"2`, `"client_start_date":"9`},
	{`"key":"MerchantId"`, `"key":""`},
	{`"values":[`, `"values":[1,`},
	{`"time_period":"`, `"time_period":"Bi`},
	{`"currency":"`, `"currency":"X`},
	{`"total_amount":`, `"total_amount":"a lot","amount":`},
	{`"transaction_count":`, `"transaction_count":null,"count":`},
	{`"end_date":"2`, `"end_date":"3`},
}

const firstClaimFlaw = 5

// appendFlawed appends a new client that is invalid.
func (g *Generator) appendFlawed(b []byte) []byte {
	at, kinds := len(b), len(flaws)
	if len(g.periods) == 0 {
		kinds = firstClaimFlaw
	}
	flaw := flaws[g.random.IntN(kinds)]
	b = g.appendItem(b)
	item := bytes.Replace(b[at:], []byte(flaw.old), []byte(flaw.new), 1)
	return append(b[:at], item...)
}

// appendClaim appends a claim; one in twenty is of returns.
func (g *Generator) appendClaim(b []byte, period [2]string, scale float64) []byte {
	cents := 1 + int64(100*scale*(0.5+g.random.Float64()))
	count := 1 + cents/(1_000+g.random.Int64N(9_000))
	b = append(b, `{"start_date":"`...)
	b = append(b, period[0]...)
	b = append(b, `","end_date":"`...)
	b = append(b, period[1]...)
	b = append(b, `","time_period":"`...)
	if g.opts.Daily {
		b = append(b, "Daily"...)
	} else {
		b = append(b, "Monthly"...)
	}
	b = append(b, `","currency":"`...)
	b = append(b, g.opts.Currency...)
	b = append(b, `","total_amount":`...)
	negative := g.random.IntN(20) == 0
	if negative {
		b = append(b, '-')
	}
	b = strconv.AppendInt(b, cents/100, 10)
	b = append(b, '.', byte('0'+cents%100/10), byte('0'+cents%10))
	b = append(b, `,"transaction_count":`...)
	if negative {
		b = append(b, '-')
	}
	b = strconv.AppendInt(b, count, 10)
	return append(b, '}')
}

func (g *Generator) appendUUID(b []byte) []byte {
	const hex = "0123456789abcdef"
	high, low := g.random.Uint64(), g.random.Uint64()
	for i := range 32 {
		if i == 8 || i == 12 || i == 16 || i == 20 {
			b = append(b, '-')
		}
		if i == 16 {
			high = low
		}
		b = append(b, hex[high>>60])
		high <<= 4
	}
	return b
}

// appendConflict appends an item of the same key with other data.
func (g *Generator) appendConflict(b, item []byte) []byte {
	const after = `"client_start_date":"2`
	for i := range item {
		if i+len(after) < len(item) && string(item[i:i+len(after)]) == after {
			b = append(b, item[:i+len(after)-1]...)
			b = append(b, '1') // a thousand years before
			return append(b, item[i+len(after):]...)
		}
	}
	return append(b, item...)
}

// keptItems bounds the items of earlier batches that may be sent again.
const keptItems = 20_000

func (g *Generator) keep(item []byte) {
	if g.opts.SavedBefore > 0 && len(g.ends) < keptItems {
		g.earlier = append(g.earlier, item...)
		g.ends = append(g.ends, len(g.earlier))
	}
}

func (g *Generator) appendEarlier(b []byte) []byte {
	g.next = (g.next + 1) % g.fromEarlier
	begin := 0
	if g.next > 0 {
		begin = g.ends[g.next-1]
	}
	return append(b, g.earlier[begin:g.ends[g.next]]...)
}
