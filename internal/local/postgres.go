package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// PostgresOptions are the options of a private Postgres. Dir is required.
type PostgresOptions struct {
	// Dir is the folder of its data. It is made if it does not exist.
	Dir string
	// Settings are set on the command line, such as {"fsync": "off"}.
	Settings map[string]string
}

// Postgres is a private Postgres.
type Postgres struct {
	opts     PostgresOptions
	programs string // the folder of initdb, pg_basebackup and postgres
	cluster  string // the data directory
	password string
	port     int
	owner    *syscall.Credential // nil: this process's user
	process  *process
}

// StartPostgres starts a Postgres and waits until it is ready.
//
// Postgres refuses to run as root. If this process is root, Postgres runs as the user
// postgres. If that user cannot access Dir, the data are in /var/tmp and a link in Dir
// leads there.
func StartPostgres(ctx context.Context, opts PostgresOptions) (*Postgres, error) {
	p, err := newPostgres(opts)
	if err != nil {
		return nil, err
	}
	if p.password, err = keptSecret(p.opts.Dir); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(p.cluster, "PG_VERSION")); errors.Is(err, fs.ErrNotExist) {
		if err := p.initCluster(ctx); err != nil {
			return nil, err
		}
	}
	if err := p.Start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// StartStandby starts a standby of the Postgres at the URL primary. Its name for
// synchronous_standby_names is the name of its folder.
func StartStandby(ctx context.Context, opts PostgresOptions, primary string) (*Postgres, error) {
	p, err := newPostgres(opts)
	if err != nil {
		return nil, err
	}
	if err := p.Follow(ctx, primary); err != nil {
		return nil, err
	}
	return p, nil
}

// newPostgres finds the programs, the user and the folder of the data.
func newPostgres(opts PostgresOptions) (*Postgres, error) {
	programs, err := postgresPrograms(
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin",
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin", "/usr/local/pgsql/bin")
	if err != nil {
		return nil, err
	}
	if opts.Dir, err = filepath.Abs(opts.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(opts.Dir, 0o755); err != nil {
		return nil, err
	}
	p := &Postgres{opts: opts, programs: programs}
	if os.Geteuid() == 0 {
		if p.owner, err = credentialOf("postgres"); err != nil {
			return nil, fmt.Errorf("postgres refuses to run as root, and there is no user postgres to run it as: %w",
				err)
		}
	}
	p.cluster, err = p.findCluster()
	return p, err
}

// URL returns the URL of the database postgres, with its superuser.
func (p *Postgres) URL() string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", p.password),
		Host: "127.0.0.1:" + strconv.Itoa(p.port), Path: "/postgres", RawQuery: "sslmode=disable",
	}
	return u.String()
}

// LogPath returns the file that Postgres logs to.
func (p *Postgres) LogPath() string { return filepath.Join(p.opts.Dir, "postgres.log") }

// Start starts a Postgres that was stopped or killed, at the same address if
// that is still free.
func (p *Postgres) Start(ctx context.Context) error {
	if err := p.stopLeftover(); err != nil {
		return err
	}
	var err error
	if p.port, err = keptPort(p.opts.Dir); err != nil {
		return err
	}
	args := []string{"-D", p.cluster, "-p", strconv.Itoa(p.port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "logging_collector=off"}
	for name, value := range p.opts.Settings {
		args = append(args, "-c", name+"="+value)
	}
	cmd := exec.Command(filepath.Join(p.programs, "postgres"), args...)
	cmd.Dir = p.cluster
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.owner}
	// With SIGQUIT, Postgres ends immediately if this process dies, and recovers at the
	// next start.
	process, err := startProcess(cmd, p.LogPath(), syscall.SIGQUIT)
	if err != nil {
		return err
	}
	p.process = process
	err = p.process.waitReady(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, p.URL())
		if answer := (*pgconn.PgError)(nil); errors.As(err, &answer) && answer.Code == noConnections {
			return nil
		}
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
	if err != nil {
		p.process.kill()
	}
	return err
}

// noConnections is the SQLSTATE of a ready Postgres whose database allows no connections
// (alter database … allow_connections false).
const noConnections = "55000"

// Stop ends Postgres and aborts its sessions.
func (p *Postgres) Stop(ctx context.Context) error { return p.process.stop(ctx, syscall.SIGINT) }

// Kill ends Postgres as a crash does.
func (p *Postgres) Kill() { p.process.kill() }

// Follow replaces the data of a Postgres that was stopped or killed, or was never
// started, by a copy of those at the URL primary, and starts it as a standby.
func (p *Postgres) Follow(ctx context.Context, primary string) error {
	u, err := url.Parse(primary)
	if err != nil {
		return err
	}
	p.password, _ = u.User.Password() // the roles are copied too
	query := u.Query()
	query.Set("application_name", filepath.Base(p.opts.Dir))
	u.RawQuery = query.Encode()
	if err := errors.Join(os.RemoveAll(p.cluster), p.makeDir(p.cluster)); err != nil {
		return err
	}
	err = p.makeCluster(ctx, func(_, data string) (*exec.Cmd, error) {
		return exec.Command(filepath.Join(p.programs, "pg_basebackup"), "-D", data, "-d", u.String(),
			"--write-recovery-conf", "--checkpoint=fast", "--no-sync"), nil
	})
	if err != nil {
		return err
	}
	return p.Start(ctx)
}

// Promote makes a standby a primary, on a new timeline.
func (p *Postgres) Promote(ctx context.Context) error {
	config, err := pgx.ParseConfig(p.URL())
	if err != nil {
		return err
	}
	config.Database = "template1" // which lets in superusers, whatever is done to the other one
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "select pg_promote(true, 30)")
	return err
}

// Backup copies the data of a Postgres that was stopped or killed to a new folder.
func (p *Postgres) Backup(dir string) error { return copyFolder(p.cluster, dir) }

// Restore replaces the data of a Postgres that was stopped or killed by those of a
// backup.
func (p *Postgres) Restore(dir string) error {
	if err := os.RemoveAll(p.cluster); err != nil {
		return err
	}
	return copyFolder(dir, p.cluster)
}

// copyFolder preserves the owners of the files, which os.CopyFS does not.
func copyFolder(from, to string) error {
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w\n%s", from, err, out)
	}
	return nil
}

// Signal sends a signal to all processes of Postgres, such as SIGSTOP.
func (p *Postgres) Signal(signal syscall.Signal) { p.process.signal(signal) }

// Remove deletes the data of a Postgres that was stopped.
func (p *Postgres) Remove() error {
	return errors.Join(os.RemoveAll(p.cluster), os.RemoveAll(p.opts.Dir))
}

// postgresPrograms returns the folder of initdb and postgres: one that matches a pattern,
// the highest version first, or one in PATH.
func postgresPrograms(patterns ...string) (string, error) {
	var candidates []string
	for _, pattern := range patterns {
		found, _ := filepath.Glob(pattern)
		slices.SortFunc(found, func(a, b string) int { return majorVersion(b) - majorVersion(a) })
		candidates = append(candidates, found...)
	}
	if initdb, err := exec.LookPath("initdb"); err == nil {
		candidates = append(candidates, filepath.Dir(initdb))
	}
	for _, dir := range candidates {
		if isFile(filepath.Join(dir, "initdb")) && isFile(filepath.Join(dir, "postgres")) {
			return dir, nil
		}
	}
	return "", errors.New("no Postgres on this machine: install it with `apt-get install postgresql` or `brew install postgresql@17`")
}

// majorVersion is the last number in a path, as in /usr/lib/postgresql/15/bin.
func majorVersion(dir string) int {
	fields := strings.FieldsFunc(dir, func(r rune) bool { return r < '0' || r > '9' })
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(fields[len(fields)-1])
	return n
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

func credentialOf(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// findCluster returns the folder of the data, which need not exist yet.
func (p *Postgres) findCluster() (string, error) {
	cluster := filepath.Join(p.opts.Dir, "cluster")
	if target, err := os.Readlink(cluster); err == nil {
		if _, err := os.Stat(target); err == nil {
			return target, nil
		}
		if err := os.Remove(cluster); err != nil { // what it named is gone
			return "", err
		}
	}
	if _, err := os.Stat(cluster); err == nil {
		return cluster, nil
	}
	if p.canReach(p.opts.Dir) {
		return cluster, p.makeDir(cluster)
	}
	elsewhere, err := os.MkdirTemp("/var/tmp", "intake-postgres-")
	if err != nil {
		return "", err
	}
	if err := p.makeDir(elsewhere); err != nil {
		return "", err
	}
	return elsewhere, os.Symlink(elsewhere, cluster)
}

// canReach reports whether the owner may enter all folders above a file.
func (p *Postgres) canReach(dir string) bool {
	if p.owner == nil {
		return true
	}
	probe := exec.Command("test", "-x", dir)
	probe.Dir = "/"
	probe.SysProcAttr = &syscall.SysProcAttr{Credential: p.owner}
	return probe.Run() == nil
}

func (p *Postgres) makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return p.own(dir)
}

// own changes the owner of a file to the user that Postgres runs as.
func (p *Postgres) own(file string) error {
	if p.owner == nil {
		return nil
	}
	return os.Chown(file, int(p.owner.Uid), int(p.owner.Gid))
}

// initCluster makes the data directory. It uses --no-sync: if the machine loses power
// now, the directory holds no records yet and can be deleted.
func (p *Postgres) initCluster(ctx context.Context) error {
	return p.makeCluster(ctx, func(making, data string) (*exec.Cmd, error) {
		password := filepath.Join(making, "password")
		if err := errors.Join(os.WriteFile(password, []byte(p.password+"\n"), 0o600), p.own(password)); err != nil {
			return nil, err
		}
		return exec.Command(filepath.Join(p.programs, "initdb"), "-D", data, "-U", "postgres", "-E", "UTF8",
			"--locale=C",
			"-A", "scram-sha-256", "--pwfile", password, "--no-sync"), nil
	})
}

// makeCluster makes the data directory with a program under another name, then renames
// it. If the process is killed meanwhile, the next start must not find a partial
// directory.
func (p *Postgres) makeCluster(ctx context.Context, program func(making, data string) (*exec.Cmd, error)) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	stale, _ := filepath.Glob(p.cluster + ".new-*")
	for _, dir := range stale {
		_ = os.RemoveAll(dir)
	}
	making, err := os.MkdirTemp(filepath.Dir(p.cluster), filepath.Base(p.cluster)+".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(making)
	if err := p.own(making); err != nil {
		return err
	}
	data := filepath.Join(making, "data")
	cmd, err := program(making, data)
	if err != nil {
		return err
	}
	cmd.Dir = making
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.owner}
	process, err := startProcess(cmd, p.LogPath(), syscall.SIGKILL)
	if err != nil {
		return err
	}
	name := filepath.Base(cmd.Path)
	select {
	case <-process.ended:
	case <-ctx.Done(): // it is given time to end what it has started
		stopping, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return errors.Join(fmt.Errorf("%s: %w", name, ctx.Err()), process.stop(stopping, syscall.SIGTERM))
	}
	if process.err != nil {
		return fmt.Errorf("%s: %w; its log %s ends with:\n%s", name, process.err, p.LogPath(), tail(p.LogPath()))
	}
	// Remove fails on a folder that is not empty, which may hold data.
	if err := os.Remove(p.cluster); err != nil {
		return err
	}
	return os.Rename(data, p.cluster)
}

// stopLeftover ends the Postgres of an earlier process on the same data.
func (p *Postgres) stopLeftover() error {
	content, err := os.ReadFile(filepath.Join(p.cluster, "postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	lines := strings.Split(string(content), "\n")
	if len(lines) < 2 || filepath.Clean(lines[1]) != p.cluster {
		return nil
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(lines[0]))
	return stopLeftover(pid, syscall.SIGINT, "postgres", p.cluster)
}
