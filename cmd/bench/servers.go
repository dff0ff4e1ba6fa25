package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
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
	program  string // Intake's; it makes the batches and the load for all systems, too
	dir      string
	cells    []cell // that were asked for; nil: the usual ones
	rounds   int
	seconds  time.Duration
	profiles string // folder, if they are wanted
	// revisions are the two that are compared.
	revisions []string

	version  string // of Postgres
	postgres *local.Postgres
	delay    *syncDelay // nil: syncs are not delayed
	children []*child
	stops    []func(context.Context) error // in the order of the starts

	// Of the limits, nil until they are measured.
	bareURL string
	bare    *pgx.Conn
	store   *sink.Store
}

// A system takes batches over HTTP.
type system struct {
	name      string
	program   string // Intake's; empty for a peer
	url       string
	client    string
	secret    string
	processes []*child          // whose CPU and memory count as the system's
	admins    map[string]string // addresses of admin listeners, by process
	database  string            // its URL
	conn      *pgx.Conn         // to its database
	saved     map[string]bool   // files that were saved

	// Of an Intake.
	nats       string // its URL
	seen       *redis.Client
	redisEmpty int64 // bytes that Redis uses with nothing in it
}

// A child is a process that is measured.
type child struct {
	name string
	cmd  *exec.Cmd
	url  string
}

const startDeadline = time.Minute

// start starts Postgres, which all systems share.
func (b *bench) start(ctx context.Context) (err error) {
	// The settings of docker-compose.yml, and no checkpoint within a cell.
	options := local.PostgresOptions{Dir: filepath.Join(b.dir, "postgres"), Settings: map[string]string{
		"shared_buffers": "256MB", "max_wal_size": "4GB", "checkpoint_timeout": "15min", "wal_compression": "on",
	}}
	if b.postgres, err = local.StartPostgres(ctx, options); err != nil {
		return err
	}
	b.stops = append(b.stops, func(ctx context.Context) error {
		return errors.Join(b.postgres.Stop(ctx), b.postgres.Remove())
	})
	conn, err := pgx.Connect(ctx, b.postgres.URL())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.QueryRow(ctx, "show server_version").Scan(&b.version)
}

func (b *bench) stop() {
	for i := len(b.children) - 1; i >= 0; i-- {
		_ = b.children[i].cmd.Process.Signal(syscall.SIGTERM)
		_ = b.children[i].cmd.Wait()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for i := len(b.stops) - 1; i >= 0; i-- {
		_ = b.stops[i](ctx)
	}
}

// database makes an empty database, and connects to it.
func (b *bench) database(ctx context.Context, name string) (url string, conn *pgx.Conn, err error) {
	admin, err := pgx.Connect(ctx, b.postgres.URL())
	if err != nil {
		return "", nil, err
	}
	defer admin.Close(ctx)
	if _, err := admin.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize()); err != nil {
		return "", nil, err
	}
	url = strings.Replace(b.postgres.URL(), "/postgres?", "/"+name+"?", 1)
	if conn, err = pgx.Connect(ctx, url); err != nil {
		return "", nil, err
	}
	b.stops = append(b.stops, conn.Close)
	return url, conn, nil
}

// run starts a child, which ends with this process.
func (b *bench) run(name, log, program string, env []string, args ...string) (*child, error) {
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	return b.startChild(name, log, cmd)
}

// runSelf starts another mode of this program, which prints its URL first.
func (b *bench) runSelf(name, log string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(self, args...)
	cmd.Stdout = in
	c, err := b.startChild(name, log, cmd)
	in.Close() // the child has it, and only its end ends the pipe
	if err != nil {
		return nil, err
	}
	if c.url, err = bufio.NewReader(out).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("start %s: %w\n%s", name, err, b.logOf(log))
	}
	c.url = strings.TrimSpace(c.url)
	return c, nil
}

func (b *bench) startChild(name, log string, cmd *exec.Cmd) (*child, error) {
	file, err := os.Create(filepath.Join(b.dir, log+".log"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	cmd.Stderr, cmd.SysProcAttr = file, childAttr()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{name: name, cmd: cmd}
	b.children = append(b.children, c)
	return c, nil
}

// logOf returns what a child has logged.
func (b *bench) logOf(log string) []byte {
	text, _ := os.ReadFile(filepath.Join(b.dir, log+".log"))
	return text
}

// freeAddress returns a local address that nobody listens on.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

func (b *bench) waitReady(ctx context.Context, url, log string) error {
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
			return errors.Join(fmt.Errorf("%s is not ready after %s\n%s", url, startDeadline, b.logOf(log)), err)
		}
	}
}
