package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// RedisOptions are the options of a private Redis. Dir is required.
type RedisOptions struct {
	// Dir is the folder of its data. It is made if it does not exist.
	Dir string
	// Password is the one that it requires. The default is a generated one.
	Password string
	// Node, if set, makes it a member of a cluster, which needs redis-server.
	Node *RedisNode
}

// Redis is a private Redis, or a stand-in within this process if there is no
// redis-server on the machine.
type Redis struct {
	opts     RedisOptions
	program  string // empty: the stand-in
	password string
	port     int
	process  *process
	standIn  *miniredis.Miniredis
}

// StartRedis starts a Redis with an append-only file and waits until it is ready.
func StartRedis(ctx context.Context, opts RedisOptions) (*Redis, error) {
	var err error
	if opts.Dir, err = filepath.Abs(opts.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(opts.Dir, 0o755); err != nil {
		return nil, err
	}
	r := &Redis{opts: opts}
	if r.password = opts.Password; r.password == "" {
		if r.password, err = keptSecret(opts.Dir); err != nil {
			return nil, err
		}
	}
	if program, err := exec.LookPath("redis-server"); err == nil {
		r.program = program
	}
	if err := r.Start(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// StandIn reports whether this is an imitation of Redis, which keeps nothing when it is
// stopped.
func (r *Redis) StandIn() bool { return r.program == "" }

// URL returns the URL of the Redis.
func (r *Redis) URL() string {
	u := url.URL{Scheme: "redis", User: url.UserPassword("", r.password), Host: net.JoinHostPort("127.0.0.1",
		strconv.Itoa(r.port))}
	return u.String()
}

// LogPath returns the file that Redis logs to.
func (r *Redis) LogPath() string { return filepath.Join(r.opts.Dir, "redis.log") }

// Start starts a Redis that was stopped or killed, at the same address if that
// is still free.
func (r *Redis) Start(ctx context.Context) error {
	if err := r.stopLeftover(); err != nil {
		return err
	}
	var err error
	if r.opts.Node != nil {
		if r.port = r.opts.Node.Port; r.StandIn() {
			return errors.New("a Redis Cluster needs redis-server, which is not on this machine")
		}
	} else if r.port, err = keptPort(r.opts.Dir); err != nil {
		return err
	}
	if r.StandIn() {
		r.standIn = miniredis.NewMiniRedis()
		r.standIn.RequireAuth(r.password)
		return r.standIn.StartAddr(net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)))
	}
	config := fmt.Sprintf("bind 127.0.0.1\nport %d\nrequirepass %s\ndir %q\nappendonly yes\nappendfsync everysec\nsave \"\"\n"+
		"maxmemory 512mb\nmaxmemory-policy allkeys-lru\npidfile %q\n",
		r.port, r.password, r.opts.Dir, r.pidFile())
	if r.opts.Node != nil {
		config += r.opts.Node.config()
	}
	if err := os.WriteFile(r.configFile(), []byte(config), 0o600); err != nil {
		return err
	}
	cmd := exec.Command(r.program, r.configFile())
	cmd.Dir = r.opts.Dir
	process, err := startProcess(cmd, r.LogPath(), syscall.SIGTERM)
	if err != nil {
		return err
	}
	r.process = process
	if err := os.WriteFile(r.pidFile(), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		r.process.kill()
		return err
	}
	options, err := redis.ParseURL(r.URL())
	if err != nil {
		return err
	}
	options.MaxRetries = -1
	client := redis.NewClient(options)
	defer client.Close()
	err = r.process.waitReady(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		return client.Ping(ctx).Err()
	})
	if err != nil {
		r.process.kill()
	}
	return err
}

func (r *Redis) pidFile() string    { return filepath.Join(r.opts.Dir, "redis.pid") }
func (r *Redis) configFile() string { return filepath.Join(r.opts.Dir, "redis.conf") }

// Stop ends Redis.
func (r *Redis) Stop(ctx context.Context) error {
	if r.StandIn() {
		r.standIn.Close()
		return nil
	}
	return r.process.stop(ctx, syscall.SIGTERM)
}

// Kill ends Redis as a crash does.
func (r *Redis) Kill() {
	if r.StandIn() {
		r.standIn.Close()
		return
	}
	r.process.kill()
}

// Signal sends a signal to Redis, such as SIGSTOP. A stand-in ignores it.
func (r *Redis) Signal(signal syscall.Signal) {
	if !r.StandIn() {
		r.process.signal(signal)
	}
}

func (r *Redis) stopLeftover() error {
	content, err := os.ReadFile(r.pidFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(content)))
	// A running Redis replaces its arguments by its address in the process list.
	return stopLeftover(pid, syscall.SIGTERM, "redis-server",
		net.JoinHostPort("127.0.0.1", strconv.Itoa(lastPort(r.opts.Dir))), r.configFile())
}
