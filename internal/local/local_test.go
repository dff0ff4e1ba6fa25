package local_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"intake/internal/local"
	"intake/internal/local/localtest"
)

// parentEnv makes this test binary a process that starts all servers in a folder
// and waits to be killed.
const parentEnv = "INTAKE_TEST_PARENT_OF"

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentEnv); dir != "" {
		ctx := context.Background()
		if _, err := local.StartPostgres(ctx, local.PostgresOptions{Dir: filepath.Join(dir, "postgres")}); err != nil {
			panic(err)
		}
		if _, err := local.StartRedis(ctx, local.RedisOptions{Dir: filepath.Join(dir, "redis")}); err != nil {
			panic(err)
		}
		if _, err := local.StartNATS(ctx, local.NATSOptions{Dir: filepath.Join(dir, "nats")}); err != nil {
			panic(err)
		}
		os.Stdout.WriteString("started\n")
		_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed, or the test's process is
		os.Exit(1)
	}
	localtest.Main(m)
}

func query(t *testing.T, postgres *local.Postgres, statement string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var value string
	if err := conn.QueryRow(t.Context(), statement).Scan(&value); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return value
}

func startPostgres(t *testing.T, dir string) *local.Postgres {
	t.Helper()
	postgres, err := local.StartPostgres(t.Context(), local.PostgresOptions{Dir: dir,
		Settings: map[string]string{"work_mem": "5MB"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := postgres.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return postgres
}

// A Postgres that is stopped, killed, or found running by another start keeps
// its data, and its address unless another took it.
func TestPostgres(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(localtest.Dir(t), "postgres")
	postgres := startPostgres(t, dir)
	url := postgres.URL()
	if encoding := query(t, postgres, "show server_encoding"); encoding != "UTF8" {
		t.Errorf("encoding %s", encoding)
	}
	if setting := query(t, postgres, "show work_mem"); setting != "5MB" {
		t.Errorf("work_mem is %s", setting)
	}
	query(t, postgres, "select 'x' from (select pg_catalog.lo_create(4711)) t")
	if err := postgres.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	postgres.Kill()
	if err := postgres.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if postgres.URL() != url {
		t.Errorf("the URL was %s and is %s", url, postgres.URL())
	}
	second := startPostgres(t, dir) // the first one is left over, as it were
	if found := query(t, second, "select count(*)::text from pg_largeobject_metadata where oid = 4711"); found != "1" {
		t.Error("what was there before is gone")
	}
}

// A folder that the server's user can't reach only says where the data are.
func TestPostgres_UnreachableFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	postgres := startPostgres(t, filepath.Join(dir, "postgres"))
	query(t, postgres, "select 'x' from (select pg_catalog.lo_create(4712)) t")
	elsewhere := filepath.Join(dir, "postgres", "cluster")
	if os.Geteuid() == 0 {
		var err error
		if elsewhere, err = os.Readlink(elsewhere); err != nil ||
			!strings.HasPrefix(elsewhere, "/var/tmp/intake-postgres-") {
			t.Fatalf("the data lie in %s (%v)", elsewhere, err)
		}
	}
	t.Cleanup(func() {
		if err := postgres.Remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(elsewhere); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", elsewhere, err)
		}
	})
	again := startPostgres(t, filepath.Join(dir, "postgres"))
	if found := query(t, again, "select count(*)::text from pg_largeobject_metadata where oid = 4712"); found != "1" {
		t.Error("what was there before is gone")
	}
}

// Passwords and what holds them are for nobody else to read.
func TestSecrets(t *testing.T) {
	t.Parallel()
	dir := localtest.Dir(t)
	for _, s := range servers {
		s.start(t, filepath.Join(dir, s.name))
	}
	for _, name := range []string{"Postgres/password", "Redis/password", "Redis/redis.conf", "NATS/password"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v", name, info.Mode())
		}
	}
}

func startRedis(t *testing.T, dir string) *local.Redis {
	t.Helper()
	server, err := local.StartRedis(t.Context(), local.RedisOptions{Dir: dir})
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

func redisClient(t *testing.T, server *local.Redis) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	t.Cleanup(func() { client.Close() })
	return client
}

func TestRedis(t *testing.T) {
	t.Parallel()
	dir := localtest.Dir(t)
	server := startRedis(t, dir)
	if server.StandIn() {
		t.Fatal("there is no redis-server on this machine")
	}
	url := server.URL()
	if err := redisClient(t, server).Set(t.Context(), "a", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if server.URL() != url {
		t.Errorf("the URL was %s and is %s", url, server.URL())
	}
	second := startRedis(t, dir) // the first one is left over, as it were
	if got, err := redisClient(t, second).Get(t.Context(), "a").Result(); got != "1" {
		t.Errorf("what was there before is %q %v", got, err)
	}
}

// Without a redis-server there is a stand-in within the process.
func TestRedis_StandIn(t *testing.T) {
	t.Setenv("PATH", "")
	server := startRedis(t, t.TempDir())
	if !server.StandIn() {
		t.Fatal("it is a real one")
	}
	if err := redisClient(t, server).Set(t.Context(), "a", "1", 0).Err(); err != nil {
		t.Error(err)
	}
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Kill() // and is stopped after that
}

func TestNATS(t *testing.T) {
	t.Parallel()
	server := localtest.OwnNATS(t)
	url := server.URL()
	publish := func() uint64 {
		t.Helper()
		nc, err := nats.Connect(server.URL())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "S",
			Subjects: []string{"s"}}); err != nil {
			t.Fatal(err)
		}
		ack, err := js.Publish(t.Context(), "s", []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		return ack.Sequence
	}
	publish()
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if sequence := publish(); sequence != 2 || server.URL() != url {
		t.Errorf("after a restart at %s, the second message has the sequence %d", server.URL(), sequence)
	}
	if nc, err := nats.Connect(strings.Replace(url, "intake:", "intake:x", 1)); err == nil {
		nc.Close()
		t.Error("a wrong password is let in")
	}
}

// When the process that started the servers is killed, they go with it or are
// stopped by the next start, which finds what they had.
func TestOrphans(t *testing.T) {
	t.Parallel()
	dir := localtest.Dir(t)
	parent := exec.CommandContext(t.Context(), os.Args[0])
	parent.Env = append(os.Environ(), parentEnv+"="+dir)
	if _, err := parent.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 8)
	if n, err := out.Read(said); err != nil || string(said[:n]) != "started\n" {
		t.Fatalf("the parent said %q: %v", said[:n], err)
	}
	postmaster, redisPID := postmasterPID(t, dir), pidIn(t, filepath.Join(dir, "redis", "redis.pid"))
	if gone(postmaster) || gone(redisPID) {
		t.Fatal("the servers don't run")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	if runtime.GOOS == "linux" {
		localtest.Eventually(t, "the orphans end by themselves", func() bool {
			return gone(postmaster) &&
				gone(redisPID)
		})
	}
	startPostgres(t, filepath.Join(dir, "postgres"))
	startRedis(t, filepath.Join(dir, "redis"))
	startNATS(t, filepath.Join(dir, "nats"))
	if !gone(postmaster) || !gone(redisPID) {
		t.Error("an orphan still runs")
	}
}

func postmasterPID(t *testing.T, dir string) int {
	t.Helper()
	return pidIn(t, filepath.Join(dir, "postgres", "cluster", "postmaster.pid"))
}

// pidIn is the number in the first line of a file.
func pidIn(t *testing.T, file string) int {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// A server that can't start says why, with the end of its log.
func TestPostgres_DoesNotStart(t *testing.T) {
	t.Parallel()
	_, err := local.StartPostgres(t.Context(), local.PostgresOptions{
		Dir: filepath.Join(localtest.Dir(t), "postgres"), Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("%v", err)
	}
}
