package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"intake/dedupe"
	"intake/internal/local"
)

// ackWait is the workers' --ack-wait: the messages of a worker that is stopped for longer
// are delivered to another one.
const ackWait = 2 * time.Second

// queueBytes is the size of the log. Half of it is for processed messages, which are
// those of a few seconds.
const queueBytes = 8 << 20

// A stack is the system under test: two fronts, two workers, and the servers, each a
// process of its own, with a proxy on each connection between two of them.
type stack struct {
	opts     Options
	postgres *local.Postgres
	standby  *local.Postgres // nil without one; swaps with postgres at a failover
	// toPrimary has the URL of each of them, by a link, for the other one.
	toPrimary map[*local.Postgres]string
	// postgresURL is direct, without a link. It stays the same, as the port does.
	postgresURL string
	redis       []*local.Redis
	redisURL    string  // of one, or of a cluster's nodes through their links
	parts       []*part // fronts, workers, NATS
	links       []*link
	fronts      []string // their URLs, by links
	direct      []string // their URLs
	natsURL     string   // direct, without a link
	secret      string   // of the partner
	consumers   []string // of the log, once all is ready
	pool        *pgxpool.Pool
	seen        redis.UniversalClient
	toxic       *toxiproxy.ApiServer
	// takingOver makes clients send batches with an Idempotency-Key over both fronts
	// concurrently: one of the requests will be paused.
	takingOver atomic.Bool
}

// A part is a process that can be killed, stopped and started again.
type part struct {
	name  string
	start func() (*local.Program, error)
	ready string   // URL that answers 200
	env   []string // added to the environment when it is started

	mu      sync.Mutex
	program *local.Program
}

// A link is a proxy between a part and a server.
type link struct {
	name  string
	proxy *toxiproxy.Proxy
}

func startStack(ctx context.Context, opts Options) (_ *stack, err error) {
	s := &stack{opts: opts, toxic: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())}
	defer func() {
		if err != nil {
			s.stop()
			s.removePostgres()
		}
	}()
	if s.postgres, err = local.StartPostgres(ctx, local.PostgresOptions{Dir: filepath.Join(opts.Dir, "postgres"),
		Settings: standbySettings}); err != nil {
		return nil, err
	}
	s.postgresURL = s.postgres.URL()
	if opts.Standby || opts.Cluster {
		if err := s.startStandby(ctx); err != nil {
			return nil, err
		}
	}
	if opts.Cluster {
		err = s.startClusters(ctx)
	} else {
		err = s.startServers(ctx)
	}
	if err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, opts.Program, "migrate",
		"--postgres-url="+s.postgresURL).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("intake migrate: %w\n%s", err, out)
	}
	if err := s.addPartner(ctx); err != nil {
		return nil, err
	}
	if s.pool, err = pgxpool.New(ctx, s.postgresURL); err != nil {
		return nil, err
	}
	if _, err := s.pool.Exec(ctx, unwantedConstraint); err != nil {
		return nil, err
	}
	queue := []string{fmt.Sprintf("--queue-max-bytes=%d", queueBytes), fmt.Sprintf("--queue-replicas=%d",
		len(strings.Split(s.natsURL, ",")))}
	for n := range 2 {
		if err := s.addPart("front", n, func(listen string) []string {
			s.direct = append(s.direct, "http://"+listen)
			return append([]string{"--listen=" + listen, "--public-url=http://intake.prove",
				"--max-backlog=" + maxBacklog.String()}, queue...)
		}); err != nil {
			return nil, err
		}
		through, err := s.addLink(fmt.Sprintf("clients to front-%d", n+1), s.direct[n])
		if err != nil {
			return nil, err
		}
		s.fronts = append(s.fronts, through)
	}
	workers := 2
	if opts.Cluster {
		workers = 3
	}
	for n := range workers {
		if err := s.addPart("worker", n, func(string) []string {
			return append([]string{"--ack-wait=" + ackWait.String()}, queue...)
		}); err != nil {
			return nil, err
		}
	}
	if s.seen, err = dedupe.NewClient(s.redisURL); err != nil {
		return nil, err
	}
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	s.consumers, err = s.listConsumers(ctx)
	return s, err
}

// startServers starts a NATS and a Redis.
func (s *stack) startServers(ctx context.Context) error {
	one, err := local.StartRedis(ctx, local.RedisOptions{Dir: filepath.Join(s.opts.Dir, "redis")})
	if err != nil {
		return err
	}
	s.redis, s.redisURL = []*local.Redis{one}, one.URL()
	s.natsURL, err = s.startNATS(ctx, "nats")
	return err
}

// startNATS starts a NATS, and returns its URL.
func (s *stack) startNATS(ctx context.Context, name string, flags ...string) (natsURL string, err error) {
	dir, file, log := filepath.Join(s.opts.Dir, name), filepath.Join(s.opts.Dir, name+".url"),
		filepath.Join(s.opts.Dir, name+".log")
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	p := &part{name: name}
	p.start = func() (*local.Program, error) {
		return local.StartProgram(exec.Command(self,
			append([]string{"nats", dir, file, fmt.Sprintf("--max-payload=%d", maxPayload)}, flags...)...), log)
	}
	s.parts = append(s.parts, p)
	if err := p.begin(); err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(file)
		if err == nil && len(text) > 0 {
			return string(text), nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-p.running().Done():
			return "", errors.New("NATS ended: see " + log)
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func (s *stack) addPartner(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, s.opts.Program, "partner", "add", partnerName, "--currency=GBP", "--json",
		"--postgres-url="+s.postgresURL).Output()
	if err != nil {
		return fmt.Errorf("intake partner add: %w", err)
	}
	var added struct {
		Secret string `json:"client_secret"`
	}
	err = json.Unmarshal(out, &added)
	s.secret = added.Secret
	return err
}

// addPart starts a front or a worker, with its own links to the servers.
func (s *stack) addPart(command string, n int, flags func(listen string) []string) error {
	name := fmt.Sprintf("%s-%d", command, n+1)
	listen, err := freeAddress()
	if err != nil {
		return err
	}
	admin, err := freeAddress()
	if err != nil {
		return err
	}
	args := append([]string{command, "--admin-listen=" + admin, "--log-level=warn"}, flags(listen)...)
	postgres, err := s.linkPostgres(name)
	if err != nil {
		return err
	}
	args = append(args, "--postgres-url="+postgres)
	for _, server := range []struct{ name, urls string }{{"nats", s.natsURL}, {"redis", s.redisURL}} {
		urls := strings.Split(server.urls, ",")
		for i := range urls {
			if server.name == "redis" && len(urls) > 1 {
				continue // a cluster's nodes have links already
			}
			to := name + " to " + server.name
			if len(urls) > 1 {
				to += fmt.Sprintf("-%d", i+1)
			}
			if urls[i], err = s.addLink(to, urls[i]); err != nil {
				return err
			}
		}
		args = append(args, "--"+server.name+"-url="+strings.Join(urls, ","))
	}
	p := &part{name: name, ready: "http://" + admin + "/readyz"}
	p.start = func() (*local.Program, error) {
		cmd := exec.Command(s.opts.Program, args...)
		cmd.Env = append(os.Environ(), p.env...)
		return local.StartProgram(cmd, filepath.Join(s.opts.Dir, name+".log"))
	}
	s.parts = append(s.parts, p)
	return p.begin()
}

func (s *stack) addLink(name, serverURL string) (through string, err error) {
	parsed, err := url.Parse(serverURL)
	if err != nil {
		return "", err
	}
	if parsed.Host, err = s.link(name, "127.0.0.1:0", parsed.Host); err != nil {
		return "", err
	}
	return parsed.String(), nil
}

// link starts a proxy from one address to another.
func (s *stack) link(name, from, to string) (listens string, err error) {
	proxy := toxiproxy.NewProxy(s.toxic, name, from, to)
	if err := proxy.Start(); err != nil {
		return "", err
	}
	s.links = append(s.links, &link{name, proxy})
	return proxy.Listen, nil
}

func freeAddress() (string, error) {
	port, err := local.FreePort(0)
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// waitReady waits until all fronts and workers are ready.
func (s *stack) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	client := &http.Client{Timeout: 2 * time.Second}
	for _, p := range s.parts {
		for p.ready != "" {
			response, err := client.Get(p.ready)
			if err == nil {
				response.Body.Close()
				if response.StatusCode == http.StatusOK {
					break
				}
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("%s is not ready (%v); its log ends with:\n%s", p.name, p.crashed(),
					s.logTail(p.name))
			}
		}
	}
	return nil
}

func (s *stack) logTail(part string) []byte {
	log, err := os.ReadFile(filepath.Join(s.opts.Dir, part+".log"))
	if err != nil {
		return []byte(err.Error())
	}
	return log[max(0, len(log)-2_000):]
}

func (s *stack) stop() {
	if s.pool != nil {
		s.pool.Close()
	}
	if s.seen != nil {
		s.seen.Close()
	}
	for _, p := range s.parts {
		if p.program != nil {
			p.program.Kill()
		}
	}
	for _, l := range s.links {
		l.proxy.Stop()
	}
	for _, node := range s.redis {
		node.Kill()
	}
	if s.standby != nil {
		s.standby.Kill()
	}
	if s.postgres != nil {
		s.postgres.Kill()
	}
}

func (p *part) begin() error {
	program, err := p.start()
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.program = program
	return nil
}

// running returns the process that was started last.
func (p *part) running() *local.Program {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.program
}

// crashed returns an error if the process has ended by itself.
func (p *part) crashed() error {
	program := p.running()
	select {
	case <-program.Done():
		return fmt.Errorf("%s has ended by itself (%v)", p.name, program.Err())
	default:
		return nil
	}
}

// kill kills the process. It fails if that has ended before.
func (p *part) kill() error {
	crashed := p.crashed()
	p.running().Kill()
	return crashed
}

// end asks the process to end, and fails unless it exits with 0.
func (p *part) end(ctx context.Context) error {
	if err := p.crashed(); err != nil {
		return err
	}
	program := p.running()
	_ = program.Signal(syscall.SIGTERM)
	select {
	case <-program.Done():
		if err := program.Err(); err != nil {
			return fmt.Errorf("%s exits with %w after SIGTERM", p.name, err)
		}
		return nil
	case <-ctx.Done():
		program.Kill()
		return fmt.Errorf("%s does not end after SIGTERM", p.name)
	}
}
