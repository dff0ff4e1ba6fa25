// Package localtest starts real servers for tests: private ones, on free ports and in
// their own folders, which are removed after the test.
package localtest

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"intake/internal/local"
)

// shared is the Postgres that the tests of a process share, each with its own database. It
// starts when the first test needs it.
var shared struct {
	once     sync.Once
	postgres *local.Postgres
	err      error
}

const startTimeout = 90 * time.Second

// Main is a TestMain. It runs the tests, stops the servers that they have shared, and
// fails if a goroutine is left.
func Main(m *testing.M) {
	status := m.Run()
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared Postgres:", err)
		status = max(status, 1)
	}
	if status == 0 {
		if err := goleak.Find(notOurs...); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left:", err)
			status = 1
		}
	}
	os.Exit(status)
}

// notOurs are goroutines that the embedded NATS leaves behind if it is stopped while a
// stream is being written, and one that a Redis client keeps for a while after it failed
// to connect.
var notOurs = []goleak.Option{
	goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"),
	goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
	goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop"),
	goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
}

func stopShared() error {
	if shared.postgres == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := shared.postgres.Stop(ctx)
	if removed := shared.postgres.Remove(); err == nil {
		err = removed
	}
	return err
}

// careless are settings for data that is not needed after the test.
var careless = map[string]string{"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
	"max_connections": "300"}

// Postgres returns the URL of an empty database for the test alone.
func Postgres(t testing.TB) string {
	t.Helper()
	skipShort(t)
	shared.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		var dir string
		if dir, shared.err = makeDir(); shared.err != nil {
			return
		}
		if shared.postgres, shared.err = local.StartPostgres(ctx, local.PostgresOptions{Dir: dir,
			Settings: careless}); shared.err != nil {
			os.RemoveAll(dir)
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	name := "test_" + strings.ToLower(rand.Text())
	execute(t, "create database "+name)
	t.Cleanup(func() { execute(t, "drop database "+name+" with (force)") })
	u, err := url.Parse(shared.postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

func execute(t testing.TB, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, shared.postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// OwnPostgres returns a Postgres that the test may stop, kill and start again. It
// keeps what it has committed, as in production.
func OwnPostgres(t testing.TB) *local.Postgres {
	t.Helper()
	return own(t, func(ctx context.Context, dir string) (*local.Postgres, error) {
		return local.StartPostgres(ctx, local.PostgresOptions{Dir: dir,
			Settings: map[string]string{"max_connections": "200"}})
	})
}

// PostgresPair returns a Postgres and its synchronous standby. The test may stop, kill and promote them.
func PostgresPair(t testing.TB) (primary, standby *local.Postgres) {
	t.Helper()
	primary = OwnPostgres(t)
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	dir := filepath.Join(Dir(t), "standby")
	standby, err := local.StartStandby(ctx, local.PostgresOptions{Dir: dir,
		Settings: map[string]string{"max_connections": "200"}}, primary.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(standby.Kill)
	conn, err := pgx.Connect(ctx, primary.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, sql := range []string{"alter system set synchronous_standby_names = 'standby'", "select pg_reload_conf()"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	const ready = "select exists (select from pg_stat_replication where sync_state = 'sync')"
	for synchronous := false; !synchronous; {
		if err := conn.QueryRow(ctx, ready).Scan(&synchronous); err != nil {
			t.Fatalf("the standby is not synchronous: %v", err)
		}
	}
	return primary, standby
}

// PostgresRoles returns three URLs of an empty database in a Postgres for the test alone:
// for its owner, who is not a superuser, and for the roles intake_worker and intake_front,
// which have no rights yet.
func PostgresRoles(t testing.TB) (owner, worker, front string) {
	t.Helper()
	server, err := url.Parse(OwnPostgres(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), server.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	as := func(role string) string {
		if _, err := conn.Exec(t.Context(), "create role "+role+" login password 'x'"); err != nil {
			t.Fatal(err)
		}
		u := *server
		u.User, u.Path = url.UserPassword(role, "x"), "/intake"
		return u.String()
	}
	owner, worker, front = as("intake_owner"), as("intake_worker"), as("intake_front")
	if _, err := conn.Exec(t.Context(), "create database intake owner intake_owner"); err != nil {
		t.Fatal(err)
	}
	return owner, worker, front
}

// Redis returns the URL of an empty Redis for the test alone.
func Redis(t testing.TB) string { t.Helper(); return OwnRedis(t).URL() }

// OwnRedis returns a Redis that the test may stop, kill and start again.
func OwnRedis(t testing.TB) *local.Redis {
	t.Helper()
	redis := own(t, func(ctx context.Context, dir string) (*local.Redis, error) {
		return local.StartRedis(ctx, local.RedisOptions{Dir: dir})
	})
	if redis.StandIn() {
		t.Fatal("no redis-server on this machine: install it with `apt-get install redis-server` or `brew install redis`")
	}
	return redis
}

// NATS returns the URL of an empty NATS for the test alone.
func NATS(t testing.TB) string { t.Helper(); return OwnNATS(t).URL() }

// OwnNATS returns a NATS that the test may stop and start again.
func OwnNATS(t testing.TB) *local.NATS { t.Helper(); return NATSWith(t, local.NATSOptions{}) }

// NATSWith starts a NATS with options, in a folder of its own unless they name one.
func NATSWith(t testing.TB, opts local.NATSOptions) *local.NATS {
	t.Helper()
	return own(t, func(ctx context.Context, dir string) (*local.NATS, error) {
		opts.Dir = cmp.Or(opts.Dir, dir)
		return local.StartNATS(ctx, opts)
	})
}

// Dir returns a folder that a server of another user can access, unlike
// [testing.TB.TempDir].
func Dir(t testing.TB) string {
	t.Helper()
	skipShort(t)
	dir, err := makeDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// makeDir makes a folder that a server of another user can access.
func makeDir() (string, error) {
	dir, err := os.MkdirTemp("", "intake-test-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// own starts a server in a folder of its own, and ends both with the test.
func own[S interface{ Stop(context.Context) error }](t testing.TB, start func(context.Context, string) (S, error)) S {
	t.Helper()
	dir := Dir(t)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	server, err := start(ctx, dir)
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

// NATSCluster returns a cluster of size servers that the test may stop and start again. It
// has elected a leader.
func NATSCluster(t testing.TB, size int) []*local.NATS {
	t.Helper()
	return NATSClusterWith(t, make([]local.NATSOptions, size)...)
}

// NATSClusterWith starts a cluster with a server for each of the options.
func NATSClusterWith(t testing.TB, opts ...local.NATSOptions) []*local.NATS {
	t.Helper()
	size := len(opts)
	ports := freePorts(t, size)
	servers := make([]*local.NATS, size)
	for i := range servers {
		cluster := &local.NATSCluster{Name: fmt.Sprintf("nats-%d", i+1), Port: ports[i]}
		for j, port := range ports {
			if i != j {
				cluster.Routes = append(cluster.Routes, fmt.Sprintf("nats://127.0.0.1:%d", port))
			}
		}
		opts[i].Cluster = cluster
		servers[i] = NATSWith(t, opts[i])
	}
	waitCluster(t, servers)
	return servers
}

// waitCluster waits until the servers of a cluster have elected a leader.
func waitCluster(t testing.TB, servers []*local.NATS) {
	t.Helper()
	nc, err := nats.Connect(servers[0].URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	// A leader takes a stream of all servers once it has heard from each.
	probe := jetstream.StreamConfig{Name: "probe", Replicas: len(servers), Storage: jetstream.MemoryStorage}
	deadline := time.Now().Add(startTimeout)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		_, err := js.CreateStream(ctx, probe)
		if err == nil {
			err = js.DeleteStream(ctx, probe.Name)
		}
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the NATS cluster is not ready: %v", err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// freePorts returns unused ports.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close() // when all are found, or one would be found twice
		ports[i] = listener.Addr().(*net.TCPAddr).Port
	}
	return ports
}
