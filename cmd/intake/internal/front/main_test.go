package front_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"intake"
	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/auth/authtest"
	"intake/cmd/intake/internal/front"
	"intake/cmd/intake/internal/problem"
	"intake/dedupe"
	"intake/internal/client"
	"intake/worker/queue"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil { // most of the tests wait
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// A testFront is a front that serves, with fakes of the queue, the seen set and
// the data store: the real ones cannot be made to answer in all of these ways.
type testFront struct {
	*front.Front
	queue    *fakeQueue
	seen     *fakeSeenSet
	auth     *auth.Authenticator
	registry *authtest.Registry
	store    *fakeStore
	logs     *observer.ObservedLogs
	secret   string // of the partner acme
	url      string
	client   *http.Client
	serving  chan error
	stop     context.CancelFunc
}

type options = front.Options

// newFront makes a front that knows the partner acme.
func newFront(t testing.TB, change func(*front.Options)) *testFront {
	t.Helper()
	return newFrontWith(t, func(*auth.Options) {}, change)
}

// newFrontWith makes one that authenticates in another way.
func newFrontWith(t testing.TB, changeAuth func(*auth.Options), change func(*front.Options)) *testFront {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	f := &testFront{queue: &fakeQueue{}, seen: &fakeSeenSet{}, registry: &authtest.Registry{}, store: &fakeStore{},
		logs: logs}
	f.secret = f.registry.Add("acme")
	authOpts := auth.Options{Registry: f.registry, PublicURL: authtest.PublicURL, Logger: zap.New(core)}
	changeAuth(&authOpts)
	var err error
	if f.auth, err = auth.New(authOpts); err != nil {
		t.Fatal(err)
	}
	f.reload(t)
	opts := front.Options{
		Queue: f.queue, Store: f.store, Questions: f.store, SeenSet: f.seen, Auth: f.auth, Logger: zap.New(core),
		Ready: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") },
		Live:  func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") },
	}
	if change != nil {
		change(&opts)
	}
	if f.Front, err = front.New(opts); err != nil {
		t.Fatal(err)
	}
	return f
}

// withIssuer makes a front that takes the tokens of an issuer, which is reached by
// transport, and keeps up with its keys until the test ends.
func withIssuer(t testing.TB, url string, transport http.RoundTripper, noBuiltin bool) *testFront {
	t.Helper()
	f := newFrontWith(t, func(o *auth.Options) {
		o.Issuer.URL, o.Issuer.Transport, o.NoBuiltinIssuer = url, transport, noBuiltin
	}, nil)
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- f.auth.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	return f
}

// reload makes the front know what has changed in the registry.
func (f *testFront) reload(t testing.TB) {
	t.Helper()
	if err := f.auth.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// startFront has it serve.
func startFront(t testing.TB) *testFront {
	t.Helper()
	f := newFront(t, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.serve(t, listener, new(net.Dialer).DialContext)
	return f
}

type dialer = func(ctx context.Context, network, address string) (net.Conn, error)

// serve serves at a listener until the test ends, or until f.stop; f.serving
// then has what Serve returned.
func (f *testFront) serve(t testing.TB, listener net.Listener, dial dialer) {
	ctx, stop := context.WithCancel(context.Background())
	f.stop, f.serving = stop, make(chan error, 1)
	go func() { f.serving <- f.Serve(ctx, listener, 30*time.Second) }()
	transport := &http.Transport{DialContext: dial, DisableCompression: true}
	f.client = &http.Client{Transport: transport}
	f.url = "http://" + listener.Addr().String()
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		stop()
		if err := <-f.serving; err != nil {
			t.Error(err)
		}
	})
}

// stopped waits until the front has stopped serving.
func (f *testFront) stopped() error {
	f.stop()
	err := <-f.serving
	f.serving <- nil
	return err
}

// token gets an access token of acme, for all scopes if none are given.
func (f *testFront) token(t testing.TB, scopes ...string) string {
	t.Helper()
	return f.tokenOf(t, "acme", f.secret, scopes...)
}

func (f *testFront) tokenOf(t testing.TB, partner, secret string, scopes ...string) string {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {partner}, "client_secret": {secret},
		"scope": {strings.Join(scopes, " ")}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://front/oauth/token",
		strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := newAnswer()
	f.ServeHTTP(w, request)
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(w.Bytes(), &answer); err != nil || w.status != http.StatusOK {
		t.Fatalf("no token: %d %s", w.status, w.Bytes())
	}
	return answer.AccessToken
}

// An answer is what a front said to a request.
type answer struct {
	bytes.Buffer
	status int
	header http.Header
}

func newAnswer() *answer                           { return &answer{header: http.Header{}} }
func (a *answer) Header() http.Header              { return a.header }
func (a *answer) WriteHeader(status int)           { a.status = status }
func (a *answer) SetReadDeadline(time.Time) error  { return nil }
func (a *answer) SetWriteDeadline(time.Time) error { return nil }

// create makes a request that creates a batch, with headers as name, value, ….
func (f *testFront) create(t testing.TB, token string, body io.Reader, headers ...string) *http.Request {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url+"/api/v1/clients", body)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	request.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			request.Header.Del(headers[i])
			continue
		}
		request.Header.Set(headers[i], headers[i+1])
	}
	return request
}

// do sends a request, and reads all of the answer.
func (f *testFront) do(t testing.TB, request *http.Request) *answer {
	t.Helper()
	a, err := f.try(request)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (f *testFront) try(request *http.Request) (*answer, error) {
	response, err := f.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	a := &answer{status: response.StatusCode, header: response.Header}
	_, err = a.ReadFrom(response.Body)
	return a, err
}

// batch reads an answer to a batch.
func (a *answer) batch(t testing.TB) (b client.Answer) {
	t.Helper()
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Fatalf("answered %d of type %s: %s", a.status, got, a.Bytes())
	}
	if err := json.Unmarshal(a.Bytes(), &b); err != nil {
		t.Fatalf("the answer is not JSON: %v\n%s", err, a.Bytes())
	}
	return b
}

// checkProblem checks that an answer is a refusal as RFC 9457 has it. What it says is
// its code and its detail, as "code: detail".
func (a *answer) checkProblem(t testing.TB, status int, says string) {
	t.Helper()
	type object struct {
		Type, Code, Title, Detail string
		Status                    int
	}
	var p object
	if a.status != status || a.header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("answered %d of type %s, want problem %d: %s", a.status, a.header.Get("Content-Type"), status,
			a.Bytes())
	}
	if err := json.Unmarshal(a.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	want := object{
		Type: "/problems/" + p.Code, Code: p.Code, Title: http.StatusText(status), Detail: p.Detail,
		Status: problem.Code(p.Code).Status(),
	}
	if diff := cmp.Diff(want, p); diff != "" || p.Status != status {
		t.Errorf("the problem has the status %d, want %d (-want +got):\n%s", p.Status, status, diff)
	}
	if !strings.Contains(p.Code+": "+p.Detail, says) {
		t.Errorf("the problem is %+v, want one that says %q", p, says)
	}
	retries := []int{http.StatusServiceUnavailable, http.StatusConflict, http.StatusTooManyRequests}
	if retry := a.header.Get("Retry-After"); slices.Contains(retries, status) != (retry != "") {
		t.Errorf("Retry-After is %q", retry)
	}
}

// items makes a batch of valid items with these ids.
func items(ids ...string) string {
	var b strings.Builder
	for i, id := range ids {
		fmt.Fprintf(&b, `%c{"partner_client_id": %q, "entity_type": "SoleTrader"}`, "[,"[min(i, 1)], id)
	}
	return b.String() + "]"
}

// A fakeQueue has everything saved at once, unless it is told otherwise.
type fakeQueue struct {
	backlog atomic.Int64 // a time.Duration
	submit  func(ctx context.Context, batch *intake.Batch) (queue.Ticket, error)
	logged  func(queue.Search) ([]queue.StoredChunk, error)
	buried  func(queue.Search) ([]queue.StoredChunk, error)

	mu      sync.Mutex
	batches []intake.Batch // submitted, without their items
	lanes   []queue.Lane   // of batches
}

func (q *fakeQueue) Overloaded(lane queue.Lane) (time.Duration, bool) {
	left := time.Duration(q.backlog.Load())
	return left - 10*time.Second, left > 10*time.Second
}

func (q *fakeQueue) Backlog() time.Duration { return time.Duration(q.backlog.Load()) }

func (q *fakeQueue) Submit(ctx context.Context, batch *intake.Batch, lane queue.Lane) (queue.Ticket, error) {
	id := batch.ID
	if id == uuid.Nil {
		id = uuid.Must(uuid.NewV7())
	}
	q.mu.Lock()
	q.lanes = append(q.lanes, lane)
	q.batches = append(q.batches, intake.Batch{ID: id, Partner: batch.Partner, Verdicts: slices.Clone(batch.Verdicts)})
	q.mu.Unlock()
	if q.submit != nil {
		ticket, err := q.submit(ctx, batch)
		if fake, ok := ticket.(*fakeTicket); ok {
			fake.id = id
		}
		return ticket, err
	}
	return &fakeTicket{id: id, wait: func(context.Context) bool {
		saveAll(batch)
		return true
	}}, nil
}

func (q *fakeQueue) Logged(_ context.Context, search queue.Search) ([]queue.StoredChunk, error) {
	if q.logged == nil {
		return nil, nil
	}
	return q.logged(search)
}

func (q *fakeQueue) Buried(_ context.Context, search queue.Search) ([]queue.StoredChunk, error) {
	if q.buried == nil {
		return nil, nil
	}
	return q.buried(search)
}

func (q *fakeQueue) submitted() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.batches)
}

// A fakeStore knows of no batch, or what finished says.
type fakeStore struct {
	finished func(partner int32, batch uuid.UUID) ([]intake.Finished, error)
	reserve  func(batch uuid.UUID) (intake.Reservation, error)
	keep     func(answer []byte) ([]byte, error)
	released atomic.Int64
	release  error
	renewed  atomic.Int64
	records  map[string]intake.Record
	away     error  // of records
	hang     func() // if not nil, what is asked waits for it
}

func (s *fakeStore) wait() {
	if s.hang != nil {
		s.hang()
	}
}

func (s *fakeStore) Records(_ context.Context, partner int32, ids []string) (records []intake.Record, err error) {
	s.wait()
	for _, id := range ids {
		if r, ok := s.records[id]; ok {
			records = append(records, r)
		}
	}
	return records, s.away
}

func (s *fakeStore) Record(_ context.Context, partner int32, id string) (intake.Record, int, bool, error) {
	s.wait()
	r, ok := s.records[id]
	return r, 3, ok, s.away
}

func (s *fakeStore) Finished(_ context.Context, partner int32, batch uuid.UUID) ([]intake.Finished, error) {
	s.wait()
	if s.finished == nil {
		return nil, nil
	}
	return s.finished(partner, batch)
}

func (s *fakeStore) Reserve(_ context.Context, _ int32, _ string, _ [32]byte, batch uuid.UUID,
	_ time.Duration) (intake.Reservation, error) {
	if s.reserve == nil {
		return intake.Reservation{State: intake.ReservationFresh, Batch: batch}, nil
	}
	return s.reserve(batch)
}

func (s *fakeStore) KeepAnswer(_ context.Context, _ int32, _ intake.Holder, _ uuid.UUID, answer []byte) ([]byte,
	error) {
	if s.keep == nil {
		return answer, nil
	}
	return s.keep(answer)
}

func (s *fakeStore) Renew(context.Context, int32, intake.Holder, time.Duration) error {
	s.renewed.Add(1)
	return nil
}

func (s *fakeStore) Release(context.Context, int32, intake.Holder) error {
	s.released.Add(1)
	return s.release
}

func saveAll(batch *intake.Batch) {
	for i := range batch.Verdicts {
		if batch.Verdicts[i].Code == intake.CodePending {
			batch.Verdicts[i].Code = intake.CodeSaved
		}
	}
}

type fakeTicket struct {
	id      uuid.UUID
	wait    func(ctx context.Context) bool
	release func()
}

func (t *fakeTicket) ID() uuid.UUID { return t.id }

func (t *fakeTicket) Wait(ctx context.Context) bool { return t.wait(ctx) }

func (t *fakeTicket) Release() {
	if t.release != nil {
		t.release()
	}
}

// untilDone is a ticket of a batch that nobody saves. began, if not nil, is told
// when the wait begins.
func untilDone(began chan<- struct{}) *fakeTicket {
	return &fakeTicket{wait: func(ctx context.Context) bool {
		if began != nil {
			began <- struct{}{}
		}
		<-ctx.Done()
		return false
	}}
}

// A fakeSeenSet knows what it is told.
type fakeSeenSet struct {
	known map[string]dedupe.Seen
	ask   func() // before it answers
}

func (s *fakeSeenSet) Ask(_ context.Context, _ int32, clients []*intake.PartnerClient, seen []dedupe.Seen) {
	if s.ask != nil {
		s.ask()
	}
	for i, client := range clients {
		seen[i] = s.known[client.ID]
	}
}

func isError(entry observer.LoggedEntry) bool { return entry.Level >= zapcore.ErrorLevel }
