package local_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"intake/internal/local"
	"intake/internal/local/localtest"
)

// A crash takes the sessions with it, also one that computes and looks at nothing
// else; or the next start would find its memory still in use.
func TestPostgres_KillEndsBusySessions(t *testing.T) {
	t.Parallel()
	postgres := startPostgres(t, filepath.Join(localtest.Dir(t), "postgres"))
	conn, err := pgx.Connect(t.Context(), postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	backend := conn.PgConn().PID()
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), "do $$ begin loop end loop; end $$")
		ended <- err
	}()
	localtest.Eventually(t, "the session is busy", func() bool {
		return query(t, postgres, fmt.Sprintf("select coalesce(max(state), '') from pg_stat_activity where pid = %d",
			backend)) == "active"
	})
	postgres.Kill()
	if err := postgres.Start(t.Context()); err != nil {
		_ = syscall.Kill(int(backend), syscall.SIGKILL)
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("the session went on")
	}
	localtest.Eventually(t, "the session's process is gone", func() bool { return gone(int(backend)) })
}

// gone reports whether a process has ended, whether or not its end was noticed.
func gone(pid int) bool { return local.CommandLine(pid) == "" }

// A number that an earlier server had may be another server's by now, which is
// common in containers. That one is left alone.
func TestLeftover_NumberOfAnotherServer(t *testing.T) {
	t.Parallel()
	t.Run("Redis", func(t *testing.T) {
		other := startRedis(t, localtest.Dir(t))
		client := redisClient(t, other)
		if err := client.Set(t.Context(), "a", "1", 0).Err(); err != nil {
			t.Fatal(err)
		}
		info, err := client.Info(t.Context(), "server").Result()
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(info, "process_id:")
		pid, _, _ := strings.Cut(rest, "\r\n")
		dir := localtest.Dir(t)
		if err := os.WriteFile(filepath.Join(dir, "redis.pid"), []byte(pid), 0o600); err != nil {
			t.Fatal(err)
		}
		startRedis(t, dir)
		if err := client.Ping(t.Context()).Err(); err != nil {
			t.Errorf("the other server was stopped: %v", err)
		}
	})
	t.Run("Postgres", func(t *testing.T) {
		others := localtest.Dir(t)
		other := startPostgres(t, filepath.Join(others, "postgres"))
		dir := localtest.Dir(t)
		postgres := startPostgres(t, filepath.Join(dir, "postgres"))
		if err := postgres.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		cluster := filepath.Join(dir, "postgres", "cluster")
		lock := fmt.Sprintf("%d\n%s\n", postmasterPID(t, others), cluster)
		if err := os.WriteFile(filepath.Join(cluster, "postmaster.pid"), []byte(lock), 0o644); err != nil {
			t.Fatal(err)
		}
		// Postgres itself may refuse to start then, and says why.
		if err := postgres.Start(t.Context()); err != nil && !strings.Contains(err.Error(), "postmaster.pid") {
			t.Error(err)
		}
		query(t, other, "select 'x'")
	})
}

// A server whose start has failed can be stopped, as a deferred Stop does.
func TestStop_AfterAFailedStart(t *testing.T) {
	t.Parallel()
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			server := s.start(t, filepath.Join(localtest.Dir(t), "server"))
			if err := server.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Dir(server.LogPath())
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			// A folder where the log was.
			if err := os.MkdirAll(filepath.Join(server.LogPath(), "x"), 0o755); err != nil {
				t.Fatal(err)
			}
			if s.name == "NATS" { // which goes on without its log, but not in a file
				if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.MkdirAll(filepath.Join(dir, "cluster"), 0o755); s.name == "Postgres" && err != nil {
				t.Fatal(err)
			}
			if err := server.Start(t.Context()); err == nil {
				t.Error("it started")
			}
			if err := server.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A server is one of the three.
type server interface {
	Start(context.Context) error
	Stop(context.Context) error
	URL() string
	LogPath() string
}

var servers = []struct {
	name  string
	start func(t *testing.T, dir string) server
}{
	{"Postgres", func(t *testing.T, dir string) server { return startPostgres(t, dir) }},
	{"Redis", func(t *testing.T, dir string) server { return startRedis(t, dir) }},
	{"NATS", func(t *testing.T, dir string) server { return startNATS(t, dir) }},
}

func startNATS(t *testing.T, dir string) *local.NATS {
	t.Helper()
	server, err := local.StartNATS(t.Context(), local.NATSOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return server
}

// Where another program took the port meanwhile, the server moves.
func TestStart_PortTaken(t *testing.T) {
	t.Parallel()
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			server := s.start(t, filepath.Join(localtest.Dir(t), "server"))
			before := address(t, server)
			if err := server.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			listener, err := net.Listen("tcp", before)
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			if err := server.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			after := address(t, server)
			if after == before {
				t.Errorf("it says that it is still at %s", after)
			}
			conn, err := net.Dial("tcp", after)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
		})
	}
}

func address(t *testing.T, server server) string {
	t.Helper()
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// A Postgres that nobody here started, in a session of its own, is stopped and
// replaced.
func TestPostgres_StartedByHand(t *testing.T) {
	t.Parallel()
	dir := localtest.Dir(t)
	postgres := startPostgres(t, filepath.Join(dir, "postgres"))
	query(t, postgres, "select 'x' from (select pg_catalog.lo_create(4713)) t")
	args := strings.Fields(local.CommandLine(postmasterPID(t, dir)))
	if err := postgres.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cluster := filepath.Join(dir, "postgres", "cluster")
	owner, err := os.Stat(cluster)
	if err != nil {
		t.Fatal(err)
	}
	stat := owner.Sys().(*syscall.Stat_t)
	cmd.Dir = cluster
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	localtest.Eventually(t, "it answers", func() bool {
		conn, err := pgx.Connect(t.Context(), postgres.URL())
		if err == nil {
			err = conn.Close(t.Context())
		}
		return err == nil
	})
	second := startPostgres(t, filepath.Join(dir, "postgres"))
	select {
	case <-ended:
	default:
		t.Error("the one started by hand still runs")
	}
	if found := query(t, second, "select count(*)::text from pg_largeobject_metadata where oid = 4713"); found != "1" {
		t.Error("what was there before is gone")
	}
	if pid := postmasterPID(t, dir); pid == cmd.Process.Pid {
		t.Error("it was not replaced")
	}
}

// A first start that is broken off, as by Ctrl-C, is no hindrance to the next one.
func TestPostgres_FirstStartBrokenOff(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(localtest.Dir(t), "postgres")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := local.StartPostgres(ctx, local.PostgresOptions{Dir: dir})
		ended <- err
	}()
	localtest.Eventually(t, "the data directory is half made", func() bool {
		found, _ := filepath.Glob(filepath.Join(dir, "cluster.new-*", "data", "PG_VERSION"))
		return len(found) > 0
	})
	cancel()
	if err := <-ended; err == nil {
		t.Error("it was not broken off")
	}
	query(t, startPostgres(t, dir), "select 'x'")
}

// The folder for temporary files may be this user's alone.
func TestPostgres_PrivateTempFolder(t *testing.T) {
	dir := filepath.Join(localtest.Dir(t), "postgres")
	temp := t.TempDir()
	if err := os.Chmod(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", temp)
	query(t, startPostgres(t, dir), "select 'x'")
}

// What lies where the data are to be, and is no data directory, is not deleted.
func TestPostgres_SomethingInTheWay(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(localtest.Dir(t), "postgres")
	precious := filepath.Join(dir, "cluster", "precious")
	if err := os.MkdirAll(precious, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := local.StartPostgres(t.Context(), local.PostgresOptions{Dir: dir}); err == nil {
		t.Error("it started")
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}
