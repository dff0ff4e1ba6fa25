package main

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"intake/dedupe"
	"intake/internal/local"
	"intake/internal/local/localtest"
	"intake/sink"
	"intake/worker/queue"
)

// A front and a worker that find a server which may lose what it has stored say so,
// and end; with --allow-unsafe they say so and go on.
func TestUnsafeServers(t *testing.T) {
	t.Parallel()
	s := startServers(t)
	const reload = "select pg_reload_conf()"
	for name, test := range map[string]struct {
		do, undo string // in Postgres
		stream   func(*jetstream.StreamConfig)
		nats     local.NATSOptions
		other    bool // the monitoring is that of another NATS
		want     []string
	}{
		"fsync": {do: "alter system set fsync = off", undo: "alter system reset fsync",
			want: []string{"fsync in Postgres is off", "set fsync = on"}},
		"full_page_writes": {do: "alter system set full_page_writes = off", undo: "alter system reset full_page_writes",
			want: []string{"full_page_writes in Postgres is off"}},
		"synchronous_commit": {do: "alter role postgres set synchronous_commit = off",
			undo: "alter role postgres reset synchronous_commit",
			want: []string{"synchronous_commit in Postgres (for this user and database) is off"}},
		"schema": {do: "insert into goose_db_version (version_id, is_applied) values (9999, true)",
			undo: "delete from goose_db_version where version_id = 9999",
			want: []string{"the version of the schema in Postgres is 9999"}},
		"another monitor": {other: true,
			want: []string{"is not the connected server (intake, whose ID is ",
				"give the monitoring URL of each server in --nats-url"}},
		"sync_interval": {nats: local.NATSOptions{SyncInterval: 2 * time.Minute},
			want: []string{"sync_interval of JetStream at http://127.0.0.1", "is 2m0s", "sync_interval: always"}},
		"memory": {stream: func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
			want: []string{"the storage of stream INTAKE is Memory"}},
		"async": {stream: func(c *jetstream.StreamConfig) { c.PersistMode = jetstream.AsyncPersistMode },
			want: []string{"the persistence of stream INTAKE is async"}},
	} {
		t.Run(name, func(t *testing.T) {
			if test.do != "" {
				s.exec(t, test.do, reload)
				defer s.exec(t, test.undo, reload)
			}
			nats := localtest.NATSWith(t, test.nats)
			monitor := nats.MonitorURL()
			if test.stream != nil {
				makeStream(t, nats.URL(), test.stream)
			}
			if test.other {
				monitor = localtest.OwnNATS(t).MonitorURL()
			}
			for _, command := range [][]string{{"front", "--listen=127.0.0.1:0", "--public-url=http://intake.test"},
				{"worker"}} {
				args := append(command, "--admin-listen=127.0.0.1:0", "--postgres-url="+s.postgres.URL(),
					"--nats-url="+nats.URL(), "--nats-monitor-url="+monitor)
				_, said := outputOf(t, 1, args...)
				for _, want := range append(test.want, "intake: unsafe: ", "--allow-unsafe") {
					if !strings.Contains(said, want) {
						t.Errorf("%s lacks %q:\n%s", command[0], want, said)
					}
				}
				text := startCommand(t, append(args, "--allow-unsafe")...)
				localtest.Eventually(t, "it goes on", func() bool {
					return strings.Contains(text.String(), "going on as --allow-unsafe says") &&
						strings.Contains(text.String(), test.want[0])
				})
			}
		})
	}
}

// All that is wrong with all servers is said at once.
func TestUnsafeServers_Several(t *testing.T) {
	t.Parallel()
	s := startServers(t)
	s.exec(t, "alter system set fsync = off", "alter system set full_page_writes = off", "select pg_reload_conf()",
		"insert into goose_db_version (version_id, is_applied) values (9999, true)")
	nats := localtest.NATSWith(t, local.NATSOptions{SyncInterval: time.Minute})
	makeStream(t, nats.URL(), func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage })
	for _, command := range [][]string{{"front", "--listen=127.0.0.1:0", "--public-url=http://intake.test"},
		{"worker"}} {
		_, said := outputOf(t, 1, append(command, "--admin-listen=127.0.0.1:0", "--postgres-url="+s.postgres.URL(),
			"--nats-url="+nats.URL(), "--nats-monitor-url="+nats.MonitorURL())...)
		for _, want := range []string{"fsync in Postgres is off", "full_page_writes in Postgres is off",
			"the version of the schema in Postgres is 9999",
			"sync_interval of JetStream", "the storage of stream INTAKE is Memory"} {
			if n := strings.Count(said, "unsafe: "+want); n != 1 {
				t.Errorf("%s says %d times %q:\n%s", command[0], n, want, said)
			}
		}
	}
}

// Postgres loses its safety under a running front and worker, by a restart or
// without: they end, and say why.
func TestUnsafePostgres_WhileRunning(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*servers){
		"restarted": func(s *servers) {
			s.exec(t, "alter system set fsync = off")
			if err := s.postgres.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			if err := s.postgres.Start(t.Context()); err != nil {
				t.Error(err)
			}
		},
		"reloaded": func(s *servers) { s.exec(t, "alter system set fsync = off", "select pg_reload_conf()") },
	} {
		t.Run(name, func(t *testing.T) {
			s := startServers(t)
			f, w, ended := runPartsToTheEnd(t, serverFlags{PostgresURL: s.postgres.URL(), NATSURL: s.nats.URL()})
			if err := waitReady(t.Context(), f.health, w.health); err != nil {
				t.Fatal(err)
			}
			lose(s)
			for range cap(ended) {
				select {
				case err := <-ended:
					if err == nil || !strings.Contains(err.Error(), "unsafe: fsync in Postgres is off") {
						t.Errorf("ended with %v", err)
					}
				case <-time.After(30 * time.Second):
					t.Fatal("it goes on")
				}
			}
		})
	}
}

// A Redis that refuses to tell is not asked all the time; one that is away is soon
// asked again.
func TestCheckRedis_Again(t *testing.T) {
	t.Parallel()
	server := localtest.OwnRedis(t)
	check := func() error {
		client, err := dedupe.NewClient(server.URL())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		_, err = dedupe.CheckServers(t.Context(), client)
		return err
	}
	client, err := dedupe.NewClient(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Do(t.Context(), "acl", "setuser", "default", "-info").Err(); err != nil {
		t.Fatal(err)
	}
	if err := check(); err == nil || pauseAfter(err) != time.Minute {
		t.Errorf("%v: asked again after %s", err, pauseAfter(err))
	}
	server.Kill()
	if err := check(); err == nil || pauseAfter(err) >= time.Second {
		t.Errorf("%v: asked again after %s", err, pauseAfter(err))
	}
}

// servers are a Postgres and a NATS of a test's own, set up as they should be.
type servers struct {
	postgres *local.Postgres
	nats     *local.NATS
}

func startServers(t *testing.T) *servers {
	t.Helper()
	s := &servers{postgres: localtest.OwnPostgres(t), nats: localtest.OwnNATS(t)}
	if _, _, err := sink.Migrate(t.Context(), s.postgres.URL()); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *servers) exec(t *testing.T, statements ...string) {
	t.Helper()
	execute(t, s.postgres.URL(), statements...)
}

func execute(t *testing.T, postgresURL string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), postgresURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
}

func makeStream(t *testing.T, natsURL string, change func(*jetstream.StreamConfig)) {
	t.Helper()
	nc, err := queue.Connect(natsURL, t.Name(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	config := jetstream.StreamConfig{Name: queue.StreamName, Subjects: []string{"intake.batch.>"},
		Discard: jetstream.DiscardNew, MaxBytes: 64 << 20}
	change(&config)
	if _, err := js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
}

// A said is what a command has said so far.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// startCommand runs a command until the test ends.
func startCommand(t *testing.T, args ...string) *said {
	t.Helper()
	cmd, text := command(t, args...), new(said)
	cmd.Stderr = text
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", args[0], text)
		}
	})
	return text
}
