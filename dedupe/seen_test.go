package dedupe_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"pgregory.net/rapid"

	"intake"
	"intake/dedupe"
	"intake/internal/local/localtest"
)

// A history is a data store that is in one timeline, and can be brought to another.
type history struct {
	mu   sync.Mutex
	name string
	err  error
}

func (h *history) Timeline(context.Context) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.name, h.err
}

func (h *history) become(name string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.name, h.err = name, err
}

// A seenSet is one that runs, with what it says to those who run it.
type seenSet struct {
	*dedupe.SeenSet
	client   redis.UniversalClient
	history  *history
	logs     *observer.ObservedLogs
	registry *prometheus.Registry
}

// newSeenSet runs a seen set of a data store in timeline "one" until the test ends.
func newSeenSet(t testing.TB, client redis.UniversalClient, askTimeout time.Duration) *seenSet {
	t.Helper()
	s := &seenSet{client: client, history: &history{name: "one"}, registry: prometheus.NewRegistry()}
	core, logs := observer.New(zapcore.InfoLevel)
	s.logs = logs
	var err error
	s.SeenSet, err = dedupe.NewSeenSet(client, dedupe.SeenSetOptions{
		Timeline: s.history, Logger: zap.New(core), Registerer: s.registry, AskTimeout: askTimeout,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// Nobody on a busy machine is so slow that a test should fail for it.
const patient = 20 * time.Second

// redisSeenSet is a seen set in a Redis of its own, ready to be asked.
func redisSeenSet(t testing.TB) *seenSet {
	t.Helper()
	s := newSeenSet(t, newClient(t, localtest.Redis(t)), patient)
	s.waitAnswered(t)
	return s
}

func newClient(t testing.TB, urls string) redis.UniversalClient {
	t.Helper()
	client, err := dedupe.NewClient(urls)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

// waitAnswered asks until Redis answers.
func (s *seenSet) waitAnswered(t testing.TB) {
	t.Helper()
	before := s.asks(t, "answered")
	localtest.Eventually(t, "redis answers", func() bool {
		s.ask(t, 99, key("any", 0))
		return s.asks(t, "answered") > before
	})
}

// asks is how many asks had an outcome.
func (s *seenSet) asks(t testing.TB, outcome string) (n float64) {
	t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() == "intake_dedupe_asks_total" && metric.GetLabel()[0].GetValue() == outcome {
				n += metric.GetCounter().GetValue()
			}
		}
	}
	return n
}

// ask asks for clients, in an array that holds something else before.
func (s *seenSet) ask(t testing.TB, partner int32, clients ...*intake.PartnerClient) []dedupe.Seen {
	t.Helper()
	seen := slices.Repeat([]dedupe.Seen{dedupe.SeenDifferent}, len(clients))
	s.Ask(t.Context(), partner, clients, seen)
	return seen
}

func (s *seenSet) mark(t testing.TB, timeline string, partner int32, clients ...*intake.PartnerClient) {
	t.Helper()
	keys := make([]intake.SavedKey, len(clients))
	for i, client := range clients {
		keys[i] = intake.SavedKey{Partner: partner, ID: client.ID, Fingerprint: client.Fingerprint}
	}
	if err := s.Mark(t.Context(), timeline, keys); err != nil {
		t.Fatal(err)
	}
}

// key is a client with one of its data.
func key(id string, data byte) *intake.PartnerClient {
	return &intake.PartnerClient{ID: id, Fingerprint: intake.Fingerprint{0: data, 7: '\r', 8: '\n', 15: 255 - data}}
}

func clients(ids ...string) []*intake.PartnerClient {
	clients := make([]*intake.PartnerClient, len(ids))
	for i, id := range ids {
		clients[i] = key(id, 1)
	}
	return clients
}

func want(t testing.TB, got []dedupe.Seen, want ...dedupe.Seen) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("seen %v, want %v", got, want)
	}
}

const (
	no        = dedupe.NotSeen
	same      = dedupe.SeenSame
	different = dedupe.SeenDifferent
)

func TestNewSeenSet_NeedsATimeline(t *testing.T) {
	t.Parallel()
	if _, err := dedupe.NewSeenSet(newClient(t, "redis://127.0.0.1:1"), dedupe.SeenSetOptions{}); err == nil {
		t.Error("no error")
	}
}

// What is marked is seen: by this partner, on this timeline, with its data.
func TestSeenSet(t *testing.T) {
	t.Parallel()
	s := redisSeenSet(t)
	want(t, s.ask(t, 1, key("A", 1), key("B", 1)), no, no)
	s.mark(t, "one", 1, key("A", 1), key("\x00:1:\u2028", 2))
	want(t, s.ask(t, 1, key("B", 1), key("A", 1), key("\x00:1:\u2028", 2), key("a", 1)), no, same, same, no)
	want(t, s.ask(t, 1, key("A", 2), key("\x00:1:\u2028", 1)), different, different)
	want(t, s.ask(t, 11, key("A", 1)), no)
	s.mark(t, "one", 1, key("A", 1))
	want(t, s.ask(t, 1, key("A", 1)), same)
	want(t, s.ask(t, 1))
	s.mark(t, "one", 1)
}

// Marks of one gathering are of many partners.
func TestSeenSet_MarkPartners(t *testing.T) {
	t.Parallel()
	s := redisSeenSet(t)
	var keys []intake.SavedKey
	for n := range 3_000 {
		keys = append(keys, intake.SavedKey{Partner: int32(n%3 + 1), ID: fmt.Sprint(n / 6),
			Fingerprint: key("", byte(n%3)).Fingerprint})
	}
	if err := s.Mark(t.Context(), "one", keys); err != nil {
		t.Fatal(err)
	}
	for partner := range int32(3) {
		for n := range 500 {
			want(t, s.ask(t, partner+1, key(fmt.Sprint(n), byte(partner)), key(fmt.Sprint(n), 9)), same, different)
		}
	}
}

// The largest batch, and more keys than one pipeline marks; many share a bucket.
func TestSeenSet_ManyKeys(t *testing.T) {
	t.Parallel()
	s := redisSeenSet(t)
	clients := make([]*intake.PartnerClient, intake.MaxBatchItems)
	for i := range clients {
		clients[i] = key(fmt.Sprintf("client %d", i), byte(i))
	}
	var marked []*intake.PartnerClient
	for i, client := range clients {
		switch i % 3 {
		case 1:
			marked = append(marked, client)
		case 2:
			marked = append(marked, key(client.ID, byte(i+1)))
		}
	}
	s.mark(t, "one", 7, marked...)
	for i, seen := range s.ask(t, 7, clients...) {
		if int(seen) != i%3 {
			t.Fatalf("client %d: %v", i, seen)
		}
	}
}

// A round trip for every thousand keys.
func TestSeenSet_RoundTrips(t *testing.T) {
	t.Parallel()
	s := redisSeenSet(t)
	trips := &roundTrips{}
	s.client.AddHook(trips)
	clients := make([]*intake.PartnerClient, 1_000)
	for i := range clients {
		clients[i] = key(fmt.Sprint(i), 1)
	}
	s.ask(t, 1, clients...)
	if trips.pipelines != 1 || trips.single != 0 {
		t.Errorf("%d pipelines and %d commands apart", trips.pipelines, trips.single)
	}
	s.ask(t, 1, append(clients, key("one more", 1))...)
	if trips.pipelines != 3 || trips.single != 0 {
		t.Errorf("%d pipelines and %d commands apart", trips.pipelines-1, trips.single)
	}
}

type roundTrips struct{ pipelines, single int }

func (r *roundTrips) DialHook(next redis.DialHook) redis.DialHook { return next }
func (r *roundTrips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { r.single++; return next(ctx, cmd) }
}
func (r *roundTrips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { r.pipelines++; return next(ctx, cmds) }
}

// What is asked while another question is on its way goes with the next round
// trip, and each asker gets their own answers.
func TestSeenSet_AskTogether(t *testing.T) {
	t.Parallel()
	s := redisSeenSet(t)
	const askers = 50
	for i := range askers {
		if i%2 == 0 {
			s.mark(t, "one", 1, key(fmt.Sprint(i), 1))
		}
	}
	trips := &slowTrip{roundTrips: new(roundTrips), began: make(chan struct{}), goOn: make(chan struct{})}
	s.client.AddHook(trips)
	var wg sync.WaitGroup
	ask := func(i int) {
		got := s.ask(t, 1, key(fmt.Sprint(i), 1), key(fmt.Sprint(i, " unknown"), 1))
		if wanted := (i%2 == 0); (got[0] == same) != wanted || got[1] != no {
			t.Errorf("%d: %v", i, got)
		}
	}
	wg.Go(func() { ask(0) })
	<-trips.began
	for i := 1; i < askers; i++ {
		wg.Go(func() { ask(i) })
	}
	for s.Waiting() < askers-1 {
		runtime.Gosched()
	}
	close(trips.goOn)
	wg.Wait()
	if trips.pipelines != 2 {
		t.Errorf("%d round trips", trips.pipelines)
	}
}

// A slowTrip's first round trip waits until it may go on.
type slowTrip struct {
	*roundTrips
	began, goOn chan struct{}
}

func (r *slowTrip) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if r.pipelines++; r.pipelines == 1 {
			close(r.began)
			<-r.goOn
		}
		return next(ctx, cmds)
	}
}

// A caller who is gone, or has no time left, says nothing about a Redis that answers.
func TestSeenSet_CallerGone(t *testing.T) {
	t.Parallel()
	s := redisSeenSet(t)
	s.mark(t, "one", 1, key("A", 1))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for range 10 {
		for _, ctx := range []context.Context{gone, late} {
			seen := []dedupe.Seen{different}
			s.Ask(ctx, 1, clients("A"), seen)
			want(t, seen, no)
		}
	}
	want(t, s.ask(t, 1, key("A", 1)), same)
	if skipped := s.asks(t, "skipped"); s.asks(t, "failed") != 20 || s.logs.Len() != 0 {
		t.Errorf("%v failed, %v skipped, log %v", s.asks(t, "failed"), skipped, s.logs.All())
	}
}

// Any marks and asks, against a map.
func TestSeenSet_Model(t *testing.T) {
	t.Parallel()
	s := redisSeenSet(t)
	type record struct {
		partner int32
		id      string
	}
	first := int32(100)
	rapid.Check(t, func(r *rapid.T) {
		first += 3 // partners that no earlier check has used
		saved := make(map[record]byte)
		draw := func(what string) (record, byte) {
			partner := first + rapid.Int32Range(0, 2).Draw(r, what+"'s partner")
			id := rapid.SampledFrom([]string{"A", "a", "B", "A ", ":", "1:A", "\x00", strings.Repeat("é", 128)}).Draw(r,
				what+"'s key")
			return record{partner, id}, rapid.ByteRange(0, 2).Draw(r, what+"'s data")
		}
		for range rapid.IntRange(1, 5).Draw(r, "marks") {
			var keys []intake.SavedKey
			for range rapid.IntRange(0, 5).Draw(r, "keys") {
				at, data := draw("mark")
				if before, ok := saved[at]; ok {
					data = before // a saved record never changes
				}
				saved[at] = data
				keys = append(keys, intake.SavedKey{Partner: at.partner, ID: at.id,
					Fingerprint: key("", data).Fingerprint})
			}
			if err := s.Mark(t.Context(), "one", keys); err != nil {
				r.Fatal(err)
			}
			at, data := draw("ask")
			model := no
			if before, ok := saved[at]; ok {
				model = different
				if before == data {
					model = same
				}
			}
			if got := s.ask(t, at.partner, key(at.id, data)); got[0] != model {
				r.Fatalf("%+v with %d: %v, want %v", at, data, got[0], model)
			}
		}
	})
}

// A value that is no fingerprint is not believed, and a bucket that is none is
// as good as a Redis that is away.
func TestSeenSet_StrangeValues(t *testing.T) {
	t.Parallel()
	s := redisSeenSet(t)
	s.mark(t, "one", 1, key("A", 1))
	buckets, err := s.client.Keys(t.Context(), "intake:seen:*").Result()
	if err != nil || len(buckets) != 1 {
		t.Fatal(buckets, err)
	}
	s.mark(t, "one", 1, key("B", 1))
	fields, err := s.client.HKeys(t.Context(), buckets[0]).Result()
	if err != nil || len(fields) != 1 {
		t.Fatal(fields, err)
	}
	for _, value := range []string{"", "short", strings.Repeat("x", 15), strings.Repeat("x", 17)} {
		if err := s.client.HSet(t.Context(), buckets[0], fields[0], value).Err(); err != nil {
			t.Fatal(err)
		}
		want(t, s.ask(t, 1, key("A", 1), key("B", 1)), no, same)
	}
	if err := s.client.Set(t.Context(), buckets[0], "no hash", 0).Err(); err != nil {
		t.Fatal(err)
	}
	want(t, s.ask(t, 1, key("B", 1), key("A", 1)), no, no)
	if err := s.Mark(t.Context(), "one", []intake.SavedKey{{Partner: 1, ID: "A"}}); err == nil {
		t.Error("marked where nothing can be")
	}
}

// Redis emptied knows nothing, and learns again.
func TestSeenSet_Emptied(t *testing.T) {
	t.Parallel()
	s := redisSeenSet(t)
	s.mark(t, "one", 1, key("A", 1))
	if err := s.client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	want(t, s.ask(t, 1, key("A", 1)), no)
	s.mark(t, "one", 1, key("A", 1))
	want(t, s.ask(t, 1, key("A", 1)), same)
}

// After a restore, what the old timeline had saved is not called saved any more,
// not even if a worker marks it late.
func TestSeenSet_OtherTimeline(t *testing.T) {
	t.Parallel()
	s := redisSeenSet(t)
	s.mark(t, "one", 1, key("A", 1), key("B", 1))
	want(t, s.ask(t, 1, key("A", 1)), same)
	s.history.become("two", nil)
	localtest.Eventually(t, "the old timeline is not asked any more",
		func() bool { return s.ask(t, 1, key("A", 1))[0] == no })
	s.mark(t, "one", 1, key("C", 1))
	want(t, s.ask(t, 1, key("A", 1), key("B", 1), key("C", 1)), no, no, no)
	s.mark(t, "two", 1, key("A", 2))
	want(t, s.ask(t, 1, key("A", 2), key("B", 1)), same, no)
	if n := s.logs.FilterMessageSnippet("the seen set begins anew").Len(); n != 1 {
		t.Errorf("%d log lines tell of the other timeline", n)
	}
}

// What was committed on a timeline without a name is not marked.
func TestSeenSet_NoTimeline(t *testing.T) {
	t.Parallel()
	s := redisSeenSet(t)
	s.mark(t, "", 1, key("A", 1))
	if n, err := s.client.DBSize(t.Context()).Result(); n != 0 || err != nil {
		t.Error(n, err)
	}
}

// Without a Redis there is no seen set, and all of it can be called.
func TestSeenSet_Nil(t *testing.T) {
	t.Parallel()
	s := &seenSet{}
	want(t, s.ask(t, 1, key("A", 1), key("B", 1)), no, no)
	s.mark(t, "one", 1, key("A", 1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}

// Everything concurrently, for the race detector; each gets its own answer.
func TestSeenSet_Concurrent(t *testing.T) {
	t.Parallel()
	s := redisSeenSet(t)
	var all sync.WaitGroup
	for n := range int32(8) {
		all.Go(func() {
			for i := range 50 {
				client := key(fmt.Sprint(i), byte(n))
				want(t, s.ask(t, n, client), no)
				s.mark(t, "one", n, client)
				want(t, s.ask(t, n, client, key(client.ID, 99)), same, different)
			}
		})
	}
	all.Wait()
}

func TestNewClient(t *testing.T) {
	t.Parallel()
	if client, ok := newClient(t, "redis://user:secret@127.0.0.1:7001/3").(*redis.Client); !ok {
		t.Error("one URL is not one Redis")
	} else if o := client.Options(); o.Addr != "127.0.0.1:7001" || o.Username != "user" || o.Password != "secret" ||
		o.DB != 3 {
		t.Errorf("%+v", o)
	}
	if client, ok := newClient(t, " rediss://:secret@a:7001 , rediss://:secret@b ").(*redis.ClusterClient); !ok {
		t.Error("several URLs are not a cluster")
	} else if o := client.Options(); !slices.Equal(o.Addrs, []string{"a:7001", "b:6379"}) || o.Password != "secret" ||
		o.TLSConfig == nil {
		t.Errorf("%+v", o)
	}
}

// Whatever is wrong with a URL, the error does not show what may be its password.
func TestNewClient_ErrorsKeepTheSecret(t *testing.T) {
	t.Parallel()
	for _, urls := range []string{
		"", "redis", "http://:secret@127.0.0.1", "redis://:secret@127.0.0.1:x", "redis://:sec%zzret@127.0.0.1",
		"redis://:secret/abc@127.0.0.1:6379",
		"redis://user:12/secret@127.0.0.1", "redis://user:12/x/secret@127.0.0.1", "redis://:secret#x@127.0.0.1",
		"redis://:secret?a=b@127.0.0.1",
		"redis://:12?secret=b@127.0.0.1", "redis://:secret,abc@127.0.0.1", "secret://127.0.0.1",
		"redis://:secret@127.0.0.1,", "redis://:\x01secret@127.0.0.1",
		"redis://:secret@127.0.0.1/secret", "redis://127.0.0.1?db=secret", "redis://127.0.0.1?dial_timeout=secret",
	} {
		_, err := dedupe.NewClient(urls)
		if err == nil {
			t.Errorf("%q: no error", urls)
			continue
		}
		if text := err.Error(); strings.Contains(text, "sec") || strings.Contains(text, "ret") ||
			strings.Contains(text, "%zz") {
			t.Errorf("%q: %s", urls, text)
		}
	}
}

// Redis is stopped and comes back. Nobody is asked meanwhile, which one log line
// tells, and all that is marked is seen again.
func TestSeenSet_Away(t *testing.T) {
	t.Parallel()
	server := localtest.OwnRedis(t)
	s := newSeenSet(t, newClient(t, server.URL()), patient)
	s.waitAnswered(t)
	s.mark(t, "one", 1, key("A", 1))
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	skipped := s.asks(t, "skipped") // while the timeline was not known
	localtest.Eventually(t, "the breaker opens", func() bool {
		want(t, s.ask(t, 1, key("A", 1)), no)
		return s.asks(t, "skipped") > skipped
	})
	if err := s.Mark(t.Context(), "one", []intake.SavedKey{{Partner: 1, ID: "B"}}); err == nil {
		t.Error("marked in a Redis that is away")
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.waitAnswered(t)
	want(t, s.ask(t, 1, key("A", 1)), same)
	s.wantLogs(t, "redis unavailable", "redis answers again")
}

func (s *seenSet) wantLogs(t testing.TB, snippets ...string) {
	t.Helper()
	lines := s.logs.All()
	ok := len(lines) == len(snippets)
	for i := range lines {
		ok = ok && strings.Contains(lines[i].Message, snippets[i])
	}
	if !ok {
		t.Errorf("log lines %v, want %q", lines, snippets)
	}
}

// A Redis that takes connections and says nothing costs no more than the time
// limit, and later nothing at all.
func TestSeenSet_NeverAnswers(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				conns = append(conns, conn)
			}
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-ended
		for _, conn := range conns {
			conn.Close()
		}
	})
	checkSlow(t, newSeenSet(t, newClient(t, "redis://:secret@"+listener.Addr().String()), 0))
}

// checkSlow asks a Redis that does not answer until nobody is asked any more.
func checkSlow(t *testing.T, s *seenSet) {
	t.Helper()
	s.logs.TakeAll()
	localtest.Eventually(t, "an ask fails", func() bool { s.ask(t, 1, key("A", 1)); return s.asks(t, "failed") > 0 })
	skipped := s.asks(t, "skipped")
	localtest.Eventually(t, "the breaker opens", func() bool {
		began := time.Now()
		want(t, s.ask(t, 1, key("A", 1)), no)
		if took := time.Since(began); took > 1500*time.Millisecond {
			t.Fatalf("it took %v to learn nothing", took)
		}
		return s.asks(t, "skipped") > skipped
	})
	s.wantLogs(t, "redis unavailable")
}

// Unmarked counts the keys that are not there, and those with other data.
func TestSeenSet_Unmarked(t *testing.T) {
	t.Parallel()
	s := newSeenSet(t, newClient(t, localtest.Redis(t)), patient)
	keys := make([]intake.SavedKey, 12_000)
	for i := range keys {
		keys[i] = intake.SavedKey{Partner: int32(i % 3), ID: fmt.Sprint(i), Fingerprint: intake.Fingerprint{1}}
	}
	if err := s.Mark(t.Context(), "t", keys[:11_000]); err != nil {
		t.Fatal(err)
	}
	keys[0].Fingerprint, keys[7_000].Fingerprint = intake.Fingerprint{2}, intake.Fingerprint{2}
	if n, err := s.Unmarked(t.Context(), "t", keys); n != 1_002 || err != nil {
		t.Errorf("%d are unmarked, want 1002 (%v)", n, err)
	}
	if n, err := s.Unmarked(t.Context(), "another", keys); n != len(keys) || err != nil {
		t.Errorf("%d are unmarked on another timeline (%v)", n, err)
	}
}
