package prove

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"intake/deploy/local"
)

// ackWait is the workers': what is stopped for longer is delivered to another one.
const ackWait = 2 * time.Second

// queueBytes bounds the log.
const queueBytes = 64 << 20

// A stack is what is tormented: two fronts, two workers, and the servers, each a
// process, with a proxy on each way from one to the other.
type stack struct {
	opts     Options
	postgres *local.Postgres
	redis    *local.Redis
	parts    []*part // fronts, workers, NATS
	links    []*link
	fronts   []string // their URLs, by links
	direct   []string // their URLs
	natsURL  string   // past all links
	secret   string   // of the partner
	pool     *pgxpool.Pool
	seen     *redis.Client
	toxic    *toxiproxy.ApiServer
}

// A part is a process that can be killed, stopped and started again.
type part struct {
	name  string
	start func() (*local.Program, error)
	ready string // URL that answers 200

	mu      sync.Mutex
	program *local.Program
}

// A link is the way from a part to a server.
type link struct {
	name  string
	proxy *toxiproxy.Proxy
}

func startStack(ctx context.Context, opts Options) (_ *stack, err error) {
	s := &stack{opts: opts, toxic: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())}
	defer func() {
		if err != nil {
			s.stop()
			if s.postgres != nil {
				_ = s.postgres.Remove()
			}
		}
	}()
	if s.postgres, err = local.StartPostgres(ctx, local.PostgresOptions{Dir: filepath.Join(opts.Dir, "postgres")}); err != nil {
		return nil, err
	}
	if s.redis, err = local.StartRedis(ctx, local.RedisOptions{Dir: filepath.Join(opts.Dir, "redis")}); err != nil {
		return nil, err
	}
	if s.natsURL, err = s.startNATS(ctx); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, opts.Program, "migrate", "--postgres-url="+s.postgres.URL()).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("intake migrate: %w\n%s", err, out)
	}
	if err := s.addPartner(ctx); err != nil {
		return nil, err
	}
	queueRoom := fmt.Sprintf("--queue-max-bytes=%d", queueBytes)
	for n := range 2 {
		if err := s.addPart("front", n, func(listen string) []string {
			s.direct = append(s.direct, "http://"+listen)
			return []string{"--listen=" + listen, "--public-url=http://intake.prove", queueRoom}
		}); err != nil {
			return nil, err
		}
		through, err := s.addLink(fmt.Sprintf("clients to front-%d", n+1), s.direct[n])
		if err != nil {
			return nil, err
		}
		s.fronts = append(s.fronts, through)
		if err := s.addPart("worker", n, func(string) []string {
			return []string{"--ack-wait=" + ackWait.String(), queueRoom}
		}); err != nil {
			return nil, err
		}
	}
	if s.pool, err = pgxpool.New(ctx, s.postgres.URL()); err != nil {
		return nil, err
	}
	options, err := redis.ParseURL(s.redis.URL())
	if err != nil {
		return nil, err
	}
	s.seen = redis.NewClient(options)
	return s, s.waitReady(ctx)
}

func (s *stack) startNATS(ctx context.Context) (natsURL string, err error) {
	dir, file := filepath.Join(s.opts.Dir, "nats"), filepath.Join(s.opts.Dir, "nats.url")
	p := &part{name: "nats"}
	p.start = func() (*local.Program, error) {
		return local.StartProgram(exec.Command(s.opts.Program, "nats", dir, file), filepath.Join(s.opts.Dir, "nats.log"))
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
		case <-p.program.Done():
			return "", errors.New("NATS ended: see " + filepath.Join(s.opts.Dir, "nats.log"))
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func (s *stack) addPartner(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, s.opts.Program, "partner", "add", partnerName, "--currency=GBP", "--json", "--postgres-url="+s.postgres.URL()).Output()
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

// addPart starts a front or a worker, with links to the servers of its own.
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
	for _, server := range []struct{ name, url string }{{"postgres", s.postgres.URL()}, {"nats", s.natsURL}, {"redis", s.redis.URL()}} {
		through, err := s.addLink(name+" to "+server.name, server.url)
		if err != nil {
			return err
		}
		args = append(args, "--"+server.name+"-url="+through)
	}
	p := &part{name: name, ready: "http://" + admin + "/readyz"}
	p.start = func() (*local.Program, error) {
		return local.StartProgram(exec.Command(s.opts.Program, args...), filepath.Join(s.opts.Dir, name+".log"))
	}
	s.parts = append(s.parts, p)
	return p.begin()
}

func (s *stack) addLink(name, serverURL string) (through string, err error) {
	parsed, err := url.Parse(serverURL)
	if err != nil {
		return "", err
	}
	proxy := toxiproxy.NewProxy(s.toxic, name, "127.0.0.1:0", parsed.Host)
	if err := proxy.Start(); err != nil {
		return "", err
	}
	s.links = append(s.links, &link{name, proxy})
	parsed.Host = proxy.Listen
	return parsed.String(), nil
}

// freeAddress gives an address whose port is below those that systems give to
// outgoing connections: one of those could be taken while a process is down.
func freeAddress() (address string, err error) {
	for range 100 {
		var listener net.Listener
		if listener, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 15_000+rand.IntN(15_000))); err == nil {
			defer listener.Close()
			return listener.Addr().String(), nil
		}
	}
	return "", err
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
				return fmt.Errorf("%s is not ready (ended: %v); its log ends with:\n%s", p.name, p.hasEnded(), s.logTail(p.name))
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
	if s.redis != nil {
		s.redis.Kill()
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

func (p *part) signal(signal syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.program.Signal(signal)
}

func (p *part) hasEnded() bool {
	select {
	case <-p.program.Done():
		return true
	default:
		return false
	}
}

// end asks the process to end, and kills it if it doesn't.
func (p *part) end(ctx context.Context) error {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.program.Done():
		return nil
	case <-ctx.Done():
		p.kill()
		return fmt.Errorf("%s does not end", p.name)
	}
}

func (p *part) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.program.Kill()
}
