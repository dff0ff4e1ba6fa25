package prove

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
)

const (
	partnerName = "prover"
	loadClients = 8
	streamOneIn = 4 // of the clients, one sends streams
	variants    = 3 // of the data that a key may come with
	// requestTimeout is above the longest that a front waits.
	requestTimeout = 20 * time.Second
)

// An item is one that was sent: which key with which of its data.
type item struct {
	key     string
	variant int
}

// text is the item as it is sent.
func (i item) text() string {
	return fmt.Sprintf(`{"partner_client_id":%q,"entity_type":"SoleTrader","revenue_claims":[{"start_date":"2025-01-01T00:00:00.000Z",`+
		`"end_date":"2025-01-31T23:59:59.999Z","time_period":"Monthly","currency":"GBP","total_amount":%d.0001,"transaction_count":1}]}`, i.key, i.variant)
}

// An end is what became of an item, as far as was told.
type end uint8

const (
	unknown   end = iota // nobody said: the request was cut off
	refused              // the request was, as a whole
	saved                // Completed
	same                 // Duplicate of a record with the same data
	different            // Duplicate of one with different data
	wrong                // something that can't be
)

// An attempt is an item in a request, from when it was sent until it was known
// what became of it.
type attempt struct {
	item
	client    int
	sent, was time.Duration
	end       end
}

// A batch is a request, with what was told of it.
type batch struct {
	items    []item
	key      string // Idempotency-Key
	body     string
	sent     time.Duration
	told     time.Duration
	id       string
	answer   []byte // the first one in full
	ends     []end
	pending  bool // not final when it was answered
	answered bool
}

// A load is all that was sent.
type load struct {
	stack *stack
	seed  uint64
	began time.Time
	ended atomic.Bool
	hot   atomic.Int64           // the number of the first key that is sent again and again
	herd  atomic.Int64           // the number of the keys that all want to create at once
	herds [loadClients + 1]int64 // the last one of each client, and of the audit

	client  *http.Client
	getting sync.Mutex
	token   *oauth2.Token // guarded by getting

	mu        sync.Mutex
	batches   []*batch
	wrong     []string
	requests  int
	completed []time.Duration // when items were answered Completed
}

func newLoad(s *stack, seed uint64) *load {
	return &load{stack: s, seed: seed, began: time.Now(), client: &http.Client{}}
}

// end lets each client end when its batch is answered.
func (l *load) end() { l.ended.Store(true) }

// run sends batches until the load ends: one after the other, or as streams.
func (l *load) run(ctx context.Context, client int) {
	random := rand.New(rand.NewPCG(l.seed, uint64(100+client)))
	for n := 0; !l.ended.Load() && ctx.Err() == nil; n++ {
		if client%streamOneIn == 0 {
			l.runStream(ctx, random, client, n)
			continue
		}
		b := l.newBatch(l.draw(random, client, n))
		prefer := []string{"wait=5", "wait=5", "wait=5", "respond-async"}[random.IntN(4)]
		if random.IntN(3) == 0 {
			b.key = fmt.Sprintf("key-%d-%d", client, n)
		}
		for try := 0; ; try++ {
			l.send(ctx, random, b, prefer)
			l.keep(b)
			if b.answered || try == 3 || ctx.Err() != nil {
				break
			}
			b = l.newBatch(b.items) // nobody said that it was taken, so it is sent again
		}
	}
}

func (l *load) newBatch(items []item) *batch {
	texts := make([]string, len(items))
	for i := range items {
		texts[i] = items[i].text()
	}
	return &batch{items: items, body: "[" + strings.Join(texts, ",") + "]", ends: make([]end, len(items)), sent: time.Since(l.began)}
}

func (l *load) keep(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batches = append(l.batches, b)
	for _, e := range b.ends {
		if e == saved {
			l.completed = append(l.completed, b.told)
		}
	}
}

// draw makes up a batch: new keys, and some that others send too, each once. Now
// and then all clients want to create the same many keys at once, each in an order
// of its own.
func (l *load) draw(random *rand.Rand, client, n int) []item {
	const hotKeys = 20
	if random.IntN(300) == 0 {
		l.herd.Add(1)
	}
	if herd := l.herd.Load(); herd > l.herds[client] {
		l.herds[client] = herd
		return drawHerd(random, herd)
	}
	items := make([]item, 1+random.IntN(6))
	first, used := int(l.hot.Load()), make(map[string]bool)
	for i := range items {
		it := item{key: fmt.Sprintf("own-%d-%d-%d", client, n, i), variant: 1}
		if random.IntN(2) == 0 {
			hot := item{key: fmt.Sprintf("hot-%d", first+random.IntN(hotKeys)), variant: 1 + random.IntN(variants)}
			if !used[hot.key] {
				it = hot
			}
		}
		used[it.key] = true
		items[i] = it
	}
	if random.IntN(10) == 0 {
		l.hot.Add(1)
	}
	return items
}

func drawHerd(random *rand.Rand, herd int64) []item {
	const keys = 400
	items := make([]item, keys)
	for i, key := range random.Perm(keys) {
		items[i] = item{key: fmt.Sprintf("herd-%d-%d", herd, key), variant: 1 + random.IntN(variants)}
	}
	return items
}

// send sends a batch; with an Idempotency-Key until it is answered, over one
// front or the other. Now and then a client hangs up soon.
func (l *load) send(ctx context.Context, random *rand.Rand, b *batch, prefer string) {
	patience := requestTimeout
	if random.IntN(8) == 0 {
		patience = time.Duration(20+random.IntN(500)) * time.Millisecond
	}
	for try := random.IntN(2); ctx.Err() == nil; try++ {
		asking, cancel := context.WithTimeout(ctx, patience)
		status, text, err := l.post(asking, l.stack.fronts[try%2], b, prefer)
		cancel()
		patience = requestTimeout
		b.told = time.Since(l.began)
		switch {
		case err == nil && (status == http.StatusOK || status == http.StatusAccepted):
			l.read(b, text)
			return
		case err == nil && status != http.StatusServiceUnavailable && status != http.StatusConflict:
			l.complain("answered %d %s", status, text)
			return
		case b.key == "" && err == nil:
			l.refuse(b)
			sleep(ctx, 20*time.Millisecond)
			return
		case b.key == "":
			return // nobody knows
		}
		sleep(ctx, 50*time.Millisecond)
	}
}

// refuse notes that nothing of the batch may be saved.
func (l *load) refuse(b *batch) {
	b.told = time.Since(l.began)
	for i := range b.ends {
		b.ends[i] = refused
	}
}

func (l *load) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// read notes what is told of a batch.
func (l *load) read(b *batch, text []byte) {
	ends, id, pending, err := readEnds(text, b.items)
	if err != nil {
		l.complain("%v: %s", err, text)
		return
	}
	b.ends, b.id, b.pending, b.answered, b.answer = ends, id, pending, true, text
}
