package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"intake/internal/local"
	"intake/sink"
)

// A bench holds the servers and the systems that are measured.
type bench struct {
	program  string
	dir      string
	cells    []cell
	rounds   int
	seconds  time.Duration
	profiles string // folder, if they are wanted
	only     string // part of the names of the cells to measure

	version    string // of Postgres
	nats       string // its URL
	redisEmpty int64  // bytes that Redis uses with nothing in it

	postgres *local.Postgres
	redis    *local.Redis
	store    *sink.Store   // of the bare save, with a database of its own
	bare     *pgx.Conn     // the same database
	intake   *pgx.Conn     // the database that the worker saves to
	seen     *redis.Client // Intake's
	children []*child
	systems  [2]system // the plain handler, and Intake
}

// A system takes batches over HTTP.
type system struct {
	name      string
	url       string
	client    string
	secret    string
	processes []*child          // whose CPU and memory count as the system's
	admins    map[string]string // addresses of admin listeners, by process
	conn      *pgx.Conn
}

// A child is a process that is measured.
type child struct {
	name string
	cmd  *exec.Cmd
	url  string
}

const (
	frontAddress  = "127.0.0.1:18080"
	frontAdmin    = "127.0.0.1:18090"
	workerAdmin   = "127.0.0.1:18091"
	startDeadline = time.Minute
)

func (b *bench) start(ctx context.Context) (err error) {
	// The settings of docker-compose.yml, and no checkpoint within a cell.
	settings := map[string]string{"shared_buffers": "256MB", "max_wal_size": "4GB", "checkpoint_timeout": "15min", "wal_compression": "on"}
	if b.postgres, err = local.StartPostgres(ctx, local.PostgresOptions{Dir: filepath.Join(b.dir, "postgres"), Settings: settings}); err != nil {
		return err
	}
	if b.redis, err = local.StartRedis(ctx, local.RedisOptions{Dir: filepath.Join(b.dir, "redis")}); err != nil {
		return err
	}
	options, err := redis.ParseURL(b.redis.URL())
	if err != nil {
		return err
	}
	b.seen = redis.NewClient(options)
	for _, database := range []struct {
		name string
		conn **pgx.Conn
	}{{"bare", &b.bare}, {"naive", &b.systems[0].conn}, {"intake", &b.intake}} {
		if *database.conn, err = b.database(ctx, database.name); err != nil {
			return err
		}
	}
	if err := b.intake.QueryRow(ctx, "show server_version").Scan(&b.version); err != nil {
		return err
	}
	if b.store, err = sink.Open(ctx, sink.Options{URL: b.databaseURL("bare")}); err != nil {
		return err
	}
	if err := b.startNaive(ctx); err != nil {
		return err
	}
	return b.startIntake(ctx)
}

func (b *bench) stop() {
	for i := len(b.children) - 1; i >= 0; i-- {
		_ = b.children[i].cmd.Process.Signal(syscall.SIGTERM)
		_ = b.children[i].cmd.Wait()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if b.store != nil {
		b.store.Close()
	}
	if b.seen != nil {
		b.seen.Close()
	}
	for _, conn := range []*pgx.Conn{b.bare, b.intake, b.systems[0].conn} {
		if conn != nil {
			conn.Close(ctx)
		}
	}
	if b.redis != nil {
		_ = b.redis.Stop(ctx)
	}
	if b.postgres != nil {
		_ = b.postgres.Stop(ctx)
		_ = b.postgres.Remove()
	}
}

func (b *bench) databaseURL(name string) string {
	return strings.Replace(b.postgres.URL(), "/postgres?", "/"+name+"?", 1)
}

// database makes a database with the schema, and one partner.
func (b *bench) database(ctx context.Context, name string) (*pgx.Conn, error) {
	admin, err := pgx.Connect(ctx, b.postgres.URL())
	if err != nil {
		return nil, err
	}
	defer admin.Close(ctx)
	if _, err := admin.Exec(ctx, "create database "+name); err != nil {
		return nil, err
	}
	if _, _, err := sink.Migrate(ctx, b.databaseURL(name)); err != nil {
		return nil, err
	}
	return pgx.Connect(ctx, b.databaseURL(name))
}

// run starts a child, which ends with this process.
func (b *bench) run(name, program string, env []string, args ...string) (*child, error) {
	log, err := os.Create(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := &child{name: name, cmd: exec.Command(program, args...)}
	c.cmd.Env = append(os.Environ(), env...)
	c.cmd.Stderr = log
	c.cmd.SysProcAttr = childAttr()
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	b.children = append(b.children, c)
	if program != b.program {
		// This program's other modes print their URL first.
		if c.url, err = bufio.NewReader(out).ReadString('\n'); err != nil {
			text, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("start %s: %w\n%s", name, err, text)
		}
		c.url = strings.TrimSpace(c.url)
	}
	return c, nil
}

func (b *bench) startNaive(ctx context.Context) error {
	// Its clients get their ids from Postgres, as is usual.
	const number = "alter table partner_clients alter column id add generated always as identity"
	if _, err := b.systems[0].conn.Exec(ctx, number); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	naive, err := b.run("naive", self, nil, "naive", b.databaseURL("naive"))
	if err != nil {
		return err
	}
	s := &b.systems[0]
	s.name, s.url, s.client, s.secret, s.processes = "naive", naive.url, "any", "any", []*child{naive}
	return nil
}

func (b *bench) startIntake(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	nats, err := b.run("nats", self, nil, "nats", filepath.Join(b.dir, "nats"))
	if err != nil {
		return err
	}
	b.nats = nats.url
	env := []string{
		"INTAKE_POSTGRES_URL=" + b.databaseURL("intake"), "INTAKE_REDIS_URL=" + b.redis.URL(), "INTAKE_NATS_URL=" + nats.url,
		"INTAKE_LOG_LEVEL=warn",
	}
	client, secret, err := b.addPartner(ctx, "bench")
	if err != nil {
		return err
	}
	worker, err := b.run("worker", b.program, env, "worker", "--admin-listen="+workerAdmin)
	if err != nil {
		return err
	}
	front, err := b.run("front", b.program, env, "front", "--listen="+frontAddress, "--admin-listen="+frontAdmin, "--max-connections-per-address=0")
	if err != nil {
		return err
	}
	b.systems[1] = system{
		name: "intake", url: "http://" + frontAddress, client: client, secret: secret,
		processes: []*child{front, worker, nats}, conn: b.intake,
		admins: map[string]string{"front": frontAdmin, "worker": workerAdmin},
	}
	for _, address := range b.systems[1].admins {
		if err := waitReady(ctx, "http://"+address+"/readyz"); err != nil {
			return err
		}
	}
	empty, err := b.look(ctx, &b.systems[1])
	if err == nil {
		b.redisEmpty = empty.redis
	}
	return err
}

// setLimit limits a partner's items a second; 0 means no limit. The front applies it
// within seconds.
func (b *bench) setLimit(ctx context.Context, name string, items int) error {
	out, err := exec.CommandContext(ctx, b.program, "partner", "set", name, fmt.Sprintf("--items-per-second=%d", items), "--postgres-url="+b.databaseURL("intake")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("intake partner set: %w\n%s", err, out)
	}
	time.Sleep(3 * time.Second)
	return nil
}

// addPartner adds a partner to Intake.
func (b *bench) addPartner(ctx context.Context, name string) (id, secret string, err error) {
	out, err := exec.CommandContext(ctx, b.program, "partner", "add", name, "--currency=GBP", "--json", "--postgres-url="+b.databaseURL("intake")).Output()
	if err != nil {
		return "", "", fmt.Errorf("intake partner add: %w", err)
	}
	var credentials struct {
		ID     string `json:"client_id"`
		Secret string `json:"client_secret"`
	}
	err = json.Unmarshal(out, &credentials)
	return credentials.ID, credentials.Secret, err
}

func waitReady(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s is not ready", url), err)
		}
	}
}

// serveNATS is the first argument nats: a private NATS in a process of its own.
func serveNATS(ctx context.Context, dir string) error {
	nats, err := local.StartNATS(ctx, local.NATSOptions{Dir: dir})
	if err != nil {
		return err
	}
	fmt.Println(nats.URL())
	<-ctx.Done()
	stop, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return nats.Stop(stop)
}
