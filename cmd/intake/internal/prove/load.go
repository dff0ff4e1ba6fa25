package prove

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"intake"
)

const (
	partnerName = "prover"
	loadClients = 8
	variants    = 3 // of the data that a key may come with
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
	hot   atomic.Int64 // the number of the first key that is sent again and again

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
	return &load{stack: s, seed: seed, began: time.Now(), client: &http.Client{Timeout: 20 * time.Second}}
}

// end lets each client end when its batch is answered.
func (l *load) end() { l.ended.Store(true) }

// run sends batches until the load ends.
func (l *load) run(ctx context.Context, client int) {
	random := rand.New(rand.NewPCG(l.seed, uint64(100+client)))
	for n := 0; !l.ended.Load() && ctx.Err() == nil; n++ {
		b := &batch{items: l.draw(random, client, n), sent: time.Since(l.began)}
		texts := make([]string, len(b.items))
		for i := range b.items {
			texts[i] = b.items[i].text()
		}
		b.body = "[" + strings.Join(texts, ",") + "]"
		prefer := []string{"wait=5", "wait=5", "wait=5", "respond-async"}[random.IntN(4)]
		if random.IntN(3) == 0 {
			b.key = fmt.Sprintf("key-%d-%d", client, n)
		}
		l.send(ctx, random, b, prefer)
		l.mu.Lock()
		l.batches = append(l.batches, b)
		l.mu.Unlock()
	}
}

// draw makes up a batch: new keys, and some that others send too, each once.
func (l *load) draw(random *rand.Rand, client, n int) []item {
	const hotKeys = 20
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

// send sends a batch; with an Idempotency-Key until it is answered, over one
// front or the other.
func (l *load) send(ctx context.Context, random *rand.Rand, b *batch, prefer string) {
	b.ends = make([]end, len(b.items))
	for try := random.IntN(2); ctx.Err() == nil; try++ {
		status, text, err := l.post(ctx, l.stack.fronts[try%2], b, prefer)
		b.told = time.Since(l.began)
		switch {
		case err == nil && (status == http.StatusOK || status == http.StatusAccepted):
			l.read(b, text)
			return
		case err == nil && status != http.StatusServiceUnavailable && status != http.StatusConflict:
			l.complain("answered %d %s", status, text)
			return
		case b.key == "" && err == nil:
			for i := range b.ends {
				b.ends[i] = refused
			}
			sleep(ctx, 20*time.Millisecond)
			return
		case b.key == "":
			return // nobody knows
		}
		sleep(ctx, 50*time.Millisecond)
	}
}

func (l *load) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// A told is an answer to a batch.
type told struct {
	ID     string `json:"status_check_id"`
	Status string `json:"status"`
	Result []struct {
		Status struct {
			State  intake.State `json:"state"`
			Code   intake.Code  `json:"code"`
			Reason string       `json:"validation_errors"`
		} `json:"status"`
	} `json:"result"`
}

// read notes what is told of a batch.
func (l *load) read(b *batch, text []byte) {
	ends, id, pending, err := readEnds(text, len(b.items))
	if err != nil {
		l.complain("%v: %s", err, text)
		return
	}
	b.ends, b.id, b.pending, b.answered, b.answer = ends, id, pending, true, text
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range ends {
		if e == saved {
			l.completed = append(l.completed, b.told)
		}
	}
}

// readEnds reads an answer of n items. Those that are pending are unknown.
func readEnds(text []byte, n int) (ends []end, id string, pending bool, err error) {
	var t told
	if err := json.Unmarshal(text, &t); err != nil || len(t.Result) != n {
		return nil, "", false, fmt.Errorf("an answer of %d items to %d: %w", len(t.Result), n, err)
	}
	ends = make([]end, n)
	for i := range t.Result {
		switch status := &t.Result[i].Status; {
		case status.Code == intake.CodeSaved:
			ends[i] = saved
		case status.Code == intake.CodePending:
			pending = true
		case status.Code == intake.CodeDuplicateOfSaved && status.Reason == intake.DuplicateOfSaved(true).Text:
			ends[i] = same
		case status.Code == intake.CodeDuplicateOfSaved && status.Reason == intake.DuplicateOfSaved(false).Text:
			ends[i] = different
		default:
			return nil, "", false, fmt.Errorf("item %d is %s: %s", i, status.Code, status.Reason)
		}
	}
	if pending == (t.Status == string(intake.Completed)) {
		err = fmt.Errorf("status %s with pending items: %v", t.Status, pending)
	}
	return ends, t.ID, pending, err
}

// post gives an answer if all of it has come.
func (l *load) post(ctx context.Context, front string, b *batch, prefer string) (status int, text []byte, err error) {
	request, err := l.request(ctx, http.MethodPost, front+"/api/v1/clients", []byte(b.body))
	if err != nil {
		return http.StatusServiceUnavailable, nil, nil // no token: nothing was sent
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Prefer", prefer)
	if b.key != "" {
		request.Header.Set("Idempotency-Key", b.key)
	}
	l.mu.Lock()
	l.requests++
	l.mu.Unlock()
	return l.do(request)
}

func (l *load) do(request *http.Request) (status int, text []byte, err error) {
	response, err := l.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	text, err = io.ReadAll(response.Body)
	return response.StatusCode, text, err
}

func (l *load) request(ctx context.Context, method, url string, body []byte) (*http.Request, error) {
	token, err := l.tokenOf(ctx)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	token.SetAuthHeader(request)
	return request, nil
}

// tokenOf gives a token of any front: all of them take it.
func (l *load) tokenOf(ctx context.Context) (*oauth2.Token, error) {
	l.getting.Lock()
	defer l.getting.Unlock()
	if l.token.Valid() {
		return l.token, nil
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Timeout: 2 * time.Second})
	var failed error
	for _, front := range l.stack.fronts {
		config := clientcredentials.Config{ClientID: partnerName, ClientSecret: l.stack.secret, TokenURL: front + "/oauth/token"}
		token, err := config.Token(ctx)
		if err == nil {
			l.token = token
			return token, nil
		}
		failed = err
	}
	return nil, failed
}
