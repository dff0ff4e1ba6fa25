package main

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"intake/internal/local"
	"intake/internal/sleep"
)

// standbySettings are those of the primary and of the standby, which changes roles with
// it. wal_keep_size lets one that was down catch up.
var standbySettings = map[string]string{"wal_keep_size": "512MB"}

// startStandby starts a synchronous standby: no commit returns without it. Each of the
// two reaches the other by a link, whichever of them follows.
func (s *stack) startStandby(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.postgresURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	const name = "postgres-2"
	for _, sql := range []string{"alter system set synchronous_standby_names = 'postgres, \"" + name + "\"'",
		"select pg_reload_conf()"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	s.toPrimary = make(map[*local.Postgres]string)
	first, err := s.addLink("standby to postgres", s.postgres.URL())
	if err != nil {
		return err
	}
	s.standby, err = local.StartStandby(ctx, local.PostgresOptions{Dir: filepath.Join(s.opts.Dir, name),
		Settings: standbySettings}, first)
	if err != nil {
		return err
	}
	second, err := s.addLink("standby to "+name, s.standby.URL())
	if err != nil {
		return err
	}
	s.toPrimary[s.postgres], s.toPrimary[s.standby] = first, second
	s.postgresURL, err = withStandby(s.postgres.URL(), "primary", hostOf(s.postgres), hostOf(s.standby))
	return err
}

// withStandby returns a URL of several Postgres, of which clients choose the wanted one.
func withStandby(postgresURL, wanted string, hosts ...string) (string, error) {
	u, err := url.Parse(postgresURL)
	if err != nil {
		return "", err
	}
	u.Host = strings.Join(hosts, ",")
	query := u.Query()
	query.Set("target_session_attrs", wanted)
	u.RawQuery = query.Encode()
	return u.String(), nil
}

func hostOf(postgres *local.Postgres) string {
	u, err := url.Parse(postgres.URL())
	if err != nil {
		panic(err) // it is made by url.URL
	}
	return u.Host
}

// linkPostgres makes links from a part to Postgres, and to the standby if there is one.
func (s *stack) linkPostgres(name string) (through string, err error) {
	if s.standby == nil {
		return s.addLink(name+" to postgres", s.postgresURL)
	}
	var hosts []string
	for i, postgres := range []*local.Postgres{s.postgres, s.standby} {
		address, err := s.link(fmt.Sprintf("%s to postgres-%d", name, i+1), "127.0.0.1:0", hostOf(postgres))
		if err != nil {
			return "", err
		}
		hosts = append(hosts, address)
	}
	return withStandby(s.postgres.URL(), "read-write", hosts...)
}

// standbyFaults are done to the standby, or to the primary so that it takes over.
func (n *nemesis) standbyFaults() []fault {
	s := n.stack
	return []fault{
		{"kill", "standby", 6 * time.Second,
			func(context.Context) error { s.standby.Kill(); return nil },
			func(ctx context.Context) error { return s.standby.Start(ctx) }, true},
		{"stop", "standby", 3 * ackWait,
			func(context.Context) error { s.standby.Signal(syscall.SIGSTOP); return nil },
			func(context.Context) error { s.standby.Signal(syscall.SIGCONT); return nil }, true},
		{"failover", "postgres", time.Second, s.failOver, s.follow, true},
		{"failover", "postgres, its standby behind", time.Second, s.failOverBehind, s.follow, true},
	}
}

// failOver kills the primary, and promotes the standby.
func (s *stack) failOver(ctx context.Context) error {
	s.postgres.Kill()
	if err := s.standby.Promote(ctx); err != nil {
		return err
	}
	s.postgres, s.standby = s.standby, s.postgres
	return nil
}

// failOverBehind kills the standby and makes the commits that wait for it visible on
// the primary. Then it kills the primary and promotes the standby, which lacks them.
func (s *stack) failOverBehind(ctx context.Context) error {
	s.standby.Kill()
	sleep.For(ctx, time.Second) // until commits wait
	// It fails if connections are refused: then nothing becomes visible.
	_, _ = s.pool.Exec(ctx, "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'")
	sleep.For(ctx, 2*time.Second) // until they are read
	s.postgres.Kill()
	if err := s.standby.Start(ctx); err != nil {
		return err
	}
	return s.failOver(ctx)
}

// follow makes the former primary a standby of the other one.
func (s *stack) follow(ctx context.Context) error {
	return s.standby.Follow(ctx, s.toPrimary[s.postgres])
}

// endStandby ends the use of the standby.
func (s *stack) endStandby(ctx context.Context) error {
	if s.standby == nil {
		return nil
	}
	for _, sql := range []string{"alter system reset synchronous_standby_names", "select pg_reload_conf()"} {
		if _, err := s.pool.Exec(ctx, sql); err != nil {
			return err
		}
	}
	s.standby.Kill()
	return nil
}

// removePostgres deletes the data of Postgres, and of its standby.
func (s *stack) removePostgres() {
	for _, postgres := range []*local.Postgres{s.postgres, s.standby} {
		if postgres != nil {
			_ = postgres.Remove()
		}
	}
}

// A primary is whichever Postgres is the primary at the time of a call.
type primary struct{ stack *stack }

func (p primary) Kill()                           { p.stack.postgres.Kill() }
func (p primary) Signal(signal syscall.Signal)    { p.stack.postgres.Signal(signal) }
func (p primary) Start(ctx context.Context) error { return p.stack.postgres.Start(ctx) }
