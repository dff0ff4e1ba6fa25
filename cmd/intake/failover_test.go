package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"intake/deploy/local"
	"intake/deploy/local/localtest"
)

// A failover is a Postgres that is lost, and its synchronous standby, which takes
// over.
type failover struct{ primary, standby *local.Postgres }

func (f failover) Stop(context.Context) error {
	f.primary.Kill()
	return nil
}

func (f failover) Start(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, f.standby.URL())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "select pg_promote(true, 30)")
	return err
}

// Postgres is lost under load, and a synchronous standby takes over: nothing that
// was Completed is missing, and what was accepted meanwhile is saved.
func TestFailover(t *testing.T) {
	t.Parallel()
	f := startPair(t)
	both, err := url.Parse(f.primary.URL())
	if err != nil {
		t.Fatal(err)
	}
	standby, err := url.Parse(f.standby.URL())
	if err != nil {
		t.Fatal(err)
	}
	both.Host += "," + standby.Host
	both.RawQuery += "&target_session_attrs=read-write"
	seen := serverAway(t, stackOptions{flags: serverFlags{PostgresURL: both.String()}, fronts: 2, workers: 2}, f, "wait=1")
	if seen.refused > 0 {
		t.Errorf("%d batches were refused: the queue should have taken them", seen.refused)
	}
}

// startPair starts a Postgres, and another one that holds each commit before it
// counts.
func startPair(t *testing.T) failover {
	t.Helper()
	ctx := t.Context()
	start := func(dir string, settings map[string]string) *local.Postgres {
		t.Helper()
		p, err := local.StartPostgres(ctx, local.PostgresOptions{Dir: dir, Settings: settings})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		return p
	}
	dir := localtest.Dir(t)
	primary := start(filepath.Join(dir, "primary"), map[string]string{"max_connections": "200"})
	if err := primary.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "standby")
	if out, err := exec.CommandContext(ctx, "cp", "-a", filepath.Join(dir, "primary"), copied).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, file := range []string{"port", "cluster/postmaster.pid"} {
		if err := os.Remove(filepath.Join(copied, file)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(copied, "cluster", "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := primary.Start(ctx); err != nil {
		t.Fatal(err)
	}
	config, err := pgx.ParseConfig(primary.URL())
	if err != nil {
		t.Fatal(err)
	}
	standby := start(copied, map[string]string{"max_connections": "200", "primary_conninfo": fmt.Sprintf(
		"host=127.0.0.1 port=%d user=postgres password=%s application_name=standby", config.Port, config.Password)})
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, sql := range []string{"alter system set synchronous_standby_names = 'standby'", "select pg_reload_conf()"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the standby is synchronous", func() bool {
		var n int
		err := conn.QueryRow(ctx, "select count(*) from pg_stat_replication where sync_state = 'sync'").Scan(&n)
		return err == nil && n == 1
	})
	return failover{primary, standby}
}
