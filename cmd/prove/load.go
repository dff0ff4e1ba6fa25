package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"intake/internal/client"
	"intake/internal/sleep"
)

const (
	partnerName = "prover"
	loadClients = 8
	streamOneIn = 4 // of the clients, one sends streams
	asyncClient = 1 // this one never waits
	variants    = 3 // of the data that a key may come with
	// requestTimeout is above the longest that a front waits.
	requestTimeout = 20 * time.Second
)

// An attempt is an item in a request, from the sending until its end was known.
type attempt struct {
	item
	position  int    // in the batch
	batch     string // its id, if that is known
	client    int
	sent, was time.Duration
	end       end
}

// A batch is a request with its answer. Once it is kept, the load's mu guards it.
type batch struct {
	items    []item
	key      string // Idempotency-Key
	front    int    // the only one that it is sent to, from 1; 0 for any
	sent     time.Duration
	told     time.Duration // when the ends of all items were known
	id       string
	answer   []byte // the first one in full, if there is a key
	ends     []end
	pending  bool // not final, as far as the answers say
	answered bool
}

// body returns the batch as it is sent.
func (b *batch) body() string {
	texts := make([]string, len(b.items))
	for i := range b.items {
		texts[i] = b.items[i].text()
	}
	return "[" + strings.Join(texts, ",") + "]"
}

// A load sends batches, and keeps them with their answers.
type load struct {
	stack *stack
	seed  uint64
	began time.Time
	ended atomic.Bool
	hot   atomic.Int64           // the number of the first of the keys that all clients send
	herd  atomic.Int64           // the number of the keys that all clients create concurrently
	herds [loadClients + 1]int64 // the last herd of each client, and of the audit

	clients map[string]*client.Client // by URL of a front
	tokens  anyFront

	mu        sync.Mutex
	batches   []*batch
	named     []*batch // those that have an id
	wrong     []string
	requests  int
	watched   int             // status checks that found a batch final, while faults were made
	waited    int             // status checks that found one pending
	twins     int             // requests sent twice concurrently, with one Idempotency-Key
	completed []time.Duration // when items were answered Completed
}

func newLoad(s *stack, seed uint64) (*load, error) {
	l := &load{stack: s, seed: seed, began: time.Now()}
	return l, l.connect()
}

// end makes each client end when its batch is answered.
func (l *load) end() { l.ended.Store(true) }

// run sends batches until the load ends: one after the other, or as streams.
func (l *load) run(ctx context.Context, client int) {
	random := rand.New(rand.NewPCG(l.seed, uint64(100+client)))
	for n := 0; !l.ended.Load() && ctx.Err() == nil; n++ {
		if client%streamOneIn == 0 {
			l.runStream(ctx, random, client, n)
			continue
		}
		items := l.draw(random, client, n)
		prefer := []string{"wait=5", "wait=5", "wait=5", "respond-async"}[random.IntN(4)]
		if client == asyncClient {
			prefer = "respond-async"
			sleep.For(ctx, 50*time.Millisecond)
		}
		// While a takeover is awaited, all batches have a key: it would take long until one with a key is withdrawn.
		if random.IntN(3) == 0 || l.stack.takingOver.Load() {
			l.runKeyed(ctx, random, items, fmt.Sprintf("key-%d-%d", client, n), prefer)
			continue
		}
		for range 4 { // until it is answered
			b := l.newBatch(items)
			l.send(ctx, random, b, prefer)
			l.keep(b)
			if b.answered || ctx.Err() != nil {
				break
			}
		}
	}
}

func (l *load) newBatch(items []item) *batch {
	return &batch{items: items, ends: make([]end, len(items)), sent: time.Since(l.began)}
}

func (l *load) keep(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batches = append(l.batches, b)
	if b.id != "" {
		l.named = append(l.named, b)
	}
	for _, e := range b.ends {
		if e == saved {
			l.completed = append(l.completed, b.told)
		}
	}
}

// draw makes a batch of new keys and of keys that other clients send too. Some batches
// have items that are refused, by the contract or by Postgres. Now and then all clients
// create the same 400 keys, each in its own order, and now and then a batch is so large
// that it is queued in pieces.
func (l *load) draw(random *rand.Rand, client, n int) []item {
	const hotKeys = 20
	if random.IntN(300) == 0 {
		l.herd.Add(1)
	}
	if herd := l.herd.Load(); herd > l.herds[client] {
		l.herds[client] = herd
		return drawHerd(random, herd)
	}
	size := 1 + random.IntN(6)
	if random.IntN(1_500) == 0 {
		size = 1_000 + random.IntN(1_500)
	}
	items := make([]item, size)
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
	if random.IntN(5) == 0 {
		items = spoil(random, items)
	}
	return items
}

// spoil adds a flaw to an item, or adds an item that shares its key.
func spoil(random *rand.Rand, items []item) []item {
	at := random.IntN(len(items))
	again := items[at]
	switch random.IntN(5) {
	case 0:
		items[at].flaw = invalid
		return items
	case 1:
		items[at].flaw = unwanted
		return items
	case 2:
		again.flaw = invalid
	case 3:
		again.variant = 1 + again.variant%variants
	}
	return append(items, again) // the same data, or other data
}

func drawHerd(random *rand.Rand, herd int64) []item {
	const keys = 400
	items := make([]item, keys)
	for i, key := range random.Perm(keys) {
		items[i] = item{key: fmt.Sprintf("herd-%d-%d", herd, key), variant: 1 + random.IntN(variants)}
	}
	return items
}

// send sends a batch over one front or the other. With an Idempotency-Key it repeats
// until it is answered. Now and then it hangs up early.
func (l *load) send(ctx context.Context, random *rand.Rand, b *batch, prefer string) {
	patience := requestTimeout
	if random.IntN(8) == 0 {
		patience = time.Duration(20+random.IntN(500)) * time.Millisecond
	}
	for try := random.IntN(2); ctx.Err() == nil; try++ {
		if b.front > 0 {
			try = b.front - 1
		}
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
			sleep.For(ctx, 20*time.Millisecond)
			return
		case b.key == "":
			return // it may be saved or not
		}
		sleep.For(ctx, 50*time.Millisecond)
	}
}

// refuse records that nothing of the batch may be saved.
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

// read records the answer to a batch.
func (l *load) read(b *batch, text []byte) {
	ends, id, pending, err := readEnds(text, b.items)
	if err != nil {
		l.complain("%v: %s", err, text)
		return
	}
	b.ends, b.id, b.pending, b.answered = ends, id, pending, true
	if b.key != "" {
		b.answer = text
	}
}
