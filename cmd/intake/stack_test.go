package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"golang.org/x/oauth2/clientcredentials"

	"intake"
	"intake/cmd/intake/internal/auth"
	"intake/internal/client"
	"intake/internal/local/localtest"
	"intake/sink"
)

func TestMain(m *testing.M) {
	if os.Getenv(commandEnv) != "" {
		os.Exit(run())
	}
	if dir := os.Getenv(natsEnv); dir != "" {
		os.Exit(runNATS(dir))
	}
	redis.SetLogger(redisLog{zap.NewNop()})
	localtest.Main(m)
}

// A stack is fronts and workers as the commands run them, on servers of their own.
type stack struct {
	flags  serverFlags
	fronts []*frontProcess
	secret string
	conn   *pgxpool.Pool // to look at what is saved
}

type stackOptions struct {
	flags           serverFlags // what is empty gets a server
	noRedis         bool
	none            bool // no front and no worker
	fronts, workers int  // 1 when zero
	maxBacklog      time.Duration
	logged          func(zapcore.Entry) error // hears what is logged
	// Postgres for workers and for fronts; flags.PostgresURL when empty.
	workerURL, frontURL string
}

func startStack(t testing.TB, opts stackOptions) *stack {
	t.Helper()
	s := &stack{flags: opts.flags}
	if s.flags.PostgresURL == "" {
		s.flags.PostgresURL = localtest.Postgres(t)
		s.flags.AllowUnsafe = true // it saves the tests the syncing
	}
	if s.flags.NATSURL == "" {
		s.flags.NATSURL = localtest.NATS(t)
	}
	if s.flags.RedisURL == "" && !opts.noRedis {
		s.flags.RedisURL = localtest.Redis(t)
	}
	if s.flags.QueueMaxBytes == 0 {
		s.flags.QueueMaxBytes = 256 << 20
	}
	ctx := t.Context()
	if _, _, err := sink.Migrate(ctx, s.flags.PostgresURL); err != nil {
		t.Fatal(err)
	}
	s.secret = s.addPartner(t, "acme")
	logger := zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))
	if opts.logged != nil {
		logger = logger.WithOptions(zap.Hooks(opts.logged))
	}
	var running sync.WaitGroup
	workCtx, stopWorkers := context.WithCancel(context.WithoutCancel(ctx))
	frontCtx, stopFronts := context.WithCancel(context.WithoutCancel(ctx))
	t.Cleanup(func() {
		stopFronts()
		stopWorkers()
		running.Wait()
	})
	run := func(run func(context.Context) error, ctx context.Context) {
		running.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	if opts.none {
		opts.fronts, opts.workers = 0, 0
	} else {
		opts.fronts, opts.workers = max(opts.fronts, 1), max(opts.workers, 1)
	}
	flagsFor := func(url string) serverFlags {
		flags := s.flags
		flags.PostgresURL = cmp.Or(url, flags.PostgresURL)
		return flags
	}
	for range opts.workers {
		w, err := newWorkerProcess(ctx, workerCommand{serverFlags: flagsFor(opts.workerURL),
			AdminListen: "127.0.0.1:0"}, logger)
		if err != nil {
			t.Fatal(err)
		}
		run(w.Run, workCtx)
	}
	for range opts.fronts {
		f, err := newFrontProcess(ctx, frontCommand{serverFlags: flagsFor(opts.frontURL), Listen: "127.0.0.1:0",
			AdminListen: "127.0.0.1:0", PublicURL: "http://intake.test", MaxBacklog: opts.maxBacklog}, logger)
		if err != nil {
			t.Fatal(err)
		}
		s.fronts = append(s.fronts, f)
		run(f.Run, frontCtx)
	}
	for _, f := range s.fronts {
		if err := waitReady(ctx, f.health); err != nil {
			t.Fatal(err)
		}
	}
	pool, err := pgxpool.New(ctx, s.flags.PostgresURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s.conn = pool
	return s
}

func (s *stack) addPartner(t testing.TB, name string) (secret string) {
	t.Helper()
	store, err := sink.Open(t.Context(), sink.Options{URL: s.flags.PostgresURL})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	secret, hash := auth.NewSecret()
	if _, err := store.AddPartner(t.Context(), intake.Partner{Name: name, Currency: "GBP"}, hash); err != nil {
		t.Fatal(err)
	}
	return secret
}

// client returns an HTTP client with tokens of a partner.
func (s *stack) client(ctx context.Context, f *frontProcess, partner, secret string) *http.Client {
	return credentials(f.url(), partner, secret).Client(ctx)
}

func credentials(url, partner, secret string) *clientcredentials.Config {
	return &clientcredentials.Config{ClientID: partner, ClientSecret: secret, TokenURL: url + "/oauth/token"}
}

// An answer to a batch, or its refusal.
type answer struct {
	client.Answer
	http    int
	retry   string         // Retry-After
	refused client.Problem // the zero value if it wasn't
}

func (a *answer) UnmarshalJSON(text []byte) error {
	parsed, err := client.ParseAnswer(text)
	var problem *client.Problem
	switch {
	case errors.As(err, &problem):
		a.refused = *problem
	case err != nil:
		return err
	default:
		a.Answer = *parsed
	}
	return nil
}

// post sends a body to a front.
func post(ctx context.Context, client *http.Client, f *frontProcess, body []byte, prefer string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url()+"/api/v1/clients", bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	if prefer != "" {
		request.Header.Set("Prefer", prefer)
	}
	response, err := client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	a := answer{http: response.StatusCode, retry: response.Header.Get("Retry-After")}
	if err := json.NewDecoder(response.Body).Decode(&a); err != nil {
		return answer{}, fmt.Errorf("read the answer: %w", err)
	}
	return a, nil
}

func (s *stack) count(t testing.TB, query string, args ...any) (n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.conn.QueryRow(ctx, query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
