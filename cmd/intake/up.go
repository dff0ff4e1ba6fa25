package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/joho/godotenv"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"intake"
	"intake/cmd/intake/internal/auth"
	"intake/internal/local"
	"intake/sink"
)

type upCommand struct {
	issuerFlags
	Listen      string `default:"127.0.0.1:8080" help:"Address that partners talk to."`
	PublicURL   string `name:"public-url" help:"Address as partners see it; http:// and the address listened to if empty."`
	AdminListen string `default:"127.0.0.1:9090" help:"Address of the front's /metrics, /readyz and /debug/pprof/."`
	Data        string `default:".intake" help:"Folder that keeps everything: the servers' data, their logs, and up.env while they run."`
	Demo        bool   `help:"Send a sample batch when all is up, and show what became of it."`
	PostgresURL string `name:"postgres-url" help:"Use this database instead of a private Postgres."`
	NATSURL     string `name:"nats-url" help:"Use this NATS instead of a private one."`
	RedisURL    string `name:"redis-url" help:"Use this Redis instead of a private one."`

	WorkerAdminListen string   `default:"127.0.0.1:9091" help:"Address of the worker's /metrics, /readyz and /debug/pprof/."`
	NATSMonitorURL    []string `name:"nats-monitor-url" help:"Where the HTTP monitoring of the NATS of --nats-url is, as in http://nats:8222, to see whether it syncs each message."`
	AllowUnsafe       bool     `help:"Go on with servers that may lose what they say they have stored."`
}

// Files in the data folder.
const (
	envFile    = "up.env"      // how to reach a running stack, to be sourced by a shell
	secretFile = "demo.secret" // the demo partner's client secret
	logFile    = "intake.log"
	lockFile   = "lock"
)

func (c upCommand) Run(ctx context.Context, logger *zap.Logger, out output) error {
	if c.Demo && c.NoBuiltinIssuer {
		return errors.New("--demo needs the built-in issuer: leave out one of --demo and --no-builtin-issuer")
	}
	data, err := filepath.Abs(c.Data)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(data, 0o755); err != nil {
		return err
	}
	unlock, err := lock(data)
	if err != nil {
		return err
	}
	defer unlock()
	// Without a running stack there is no up.env: it would lead to a front that is
	// not there, or to another one.
	removeEnv := func() error {
		if err := os.Remove(filepath.Join(data, envFile)); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := removeEnv(); err != nil { // left by a stack that was killed
		return err
	}
	defer func() {
		if err := removeEnv(); err != nil {
			fmt.Fprintln(os.Stderr, "intake:", err)
		}
	}()
	logger, err = newLogger(logger.Level().String(), filepath.Join(data, logFile))
	if err != nil {
		return err
	}
	stack := &localStack{data: data}
	defer func() {
		if stopErr := stack.stop(); stopErr != nil {
			fmt.Fprintln(os.Stderr, "intake: stop the private servers:", stopErr)
		}
	}()
	if err := stack.start(ctx, &c); err != nil {
		return err
	}
	if stack.redis != nil && stack.redis.StandIn() {
		fmt.Fprintln(out, "There is no redis-server on this machine; a stand-in within this process keeps the seen set until it stops.")
	}
	return c.serve(ctx, data, logger, out)
}

// serve runs a front and a worker on servers that are there.
func (c upCommand) serve(ctx context.Context, data string, logger *zap.Logger, out output) error {
	if _, _, err := sink.Migrate(ctx, c.PostgresURL); err != nil {
		return err
	}
	flags := serverFlags{PostgresURL: c.PostgresURL, NATSURL: c.NATSURL, RedisURL: c.RedisURL,
		NATSMonitorURL: c.NATSMonitorURL, AllowUnsafe: c.AllowUnsafe}
	w, err := newWorkerProcess(ctx, workerCommand{serverFlags: flags, AdminListen: c.WorkerAdminListen},
		logger.Named("worker"))
	if errors.Is(err, syscall.EADDRINUSE) {
		return addressError("--worker-admin-listen", errors.Unwrap(err))
	}
	if err != nil {
		return err
	}
	f, err := newFrontProcess(ctx, frontCommand{
		serverFlags: flags, issuerFlags: c.issuerFlags, Listen: c.Listen, PublicURL: c.PublicURL,
		AdminListen: c.AdminListen,
	}, logger.Named("front"))
	if err != nil {
		w.close()
		return err
	}
	env, err := c.demoPartner(ctx, data, f)
	if err != nil {
		f.close()
		w.close()
		return err
	}
	// When either ends, the other one does; the worker last, so that what the
	// front still waits for gets saved.
	group, frontCtx := errgroup.WithContext(ctx)
	workerCtx, stopWorker := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return w.Run(workerCtx) })
	group.Go(func() error {
		defer stopWorker()
		return f.Run(frontCtx)
	})
	group.Go(func() error {
		err := c.welcome(frontCtx, data, env, f, w, out)
		if err != nil && ctx.Err() != nil {
			return nil // stopped before it was up
		}
		return err
	})
	return group.Wait()
}

// demoPartner makes sure that there is a partner demo whose secret is known here,
// and writes the file that says how to reach everything.
func (c upCommand) demoPartner(ctx context.Context, data string, f *frontProcess) (map[string]string, error) {
	const name = "demo"
	secret, err := demoSecret(ctx, filepath.Join(data, secretFile), name, f.store)
	if err != nil {
		return nil, err
	}
	env := map[string]string{
		"INTAKE_URL": f.url(), "INTAKE_CLIENT_ID": name, "INTAKE_CLIENT_SECRET": secret,
		"INTAKE_POSTGRES_URL": c.PostgresURL, "INTAKE_REDIS_URL": c.RedisURL, "INTAKE_NATS_URL": c.NATSURL,
	}
	return env, writeEnv(filepath.Join(data, envFile), env)
}

// demoSecret returns the partner's secret, which file keeps from one run to the
// next. It adds the partner if there is none, and replaces its secret if the one
// in file is not valid.
func demoSecret(ctx context.Context, file, name string, store *sink.Store) (string, error) {
	kept, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	secret := strings.TrimSpace(string(kept))
	known, err := store.Partners(ctx)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(known, func(p sink.PartnerRecord) bool { return p.Name == name })
	if i >= 0 && sha256.Sum256([]byte(secret)) == known[i].SecretHash {
		return secret, nil
	}
	secret, hash := auth.NewSecret()
	if i < 0 {
		_, err = store.AddPartner(ctx, intake.Partner{Name: name, Currency: "GBP"}, hash)
	} else {
		_, err = store.RotateSecret(ctx, name, hash, 0)
	}
	if err != nil {
		return "", err
	}
	return secret, writePrivate(file, secret+"\n")
}

// writeEnv writes a file of environment variables for a shell to source. They are
// exported, so that commands see them as well.
func writeEnv(file string, env map[string]string) error {
	text, err := godotenv.Marshal(env)
	if err != nil {
		return err
	}
	return writePrivate(file, "export "+strings.ReplaceAll(text, "\n", "\nexport ")+"\n")
}

// writePrivate replaces a file that only its owner may read.
func writePrivate(file, text string) error {
	fresh := file + ".new"
	if err := os.WriteFile(fresh, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, file)
}

// readUpEnv returns the variables in up.env of the stack that is running in a data
// folder. The error says how to start one if none is running there, even if one
// that was killed has left its up.env behind.
func readUpEnv(data string) (map[string]string, error) {
	unlock, err := lock(data)
	if err == nil {
		unlock()
	}
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no intake up is running in %s: start one with make up, choose its folder with --data, or name a front with --url", data)
	}
	if !errors.Is(err, errLocked) {
		return nil, err
	}
	file := filepath.Join(data, envFile)
	env, err := godotenv.Read(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the intake up in %s is still starting, or is stopping: try again in a moment", data)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return env, nil
}

// welcome waits until batches can be sent, and says how.
func (c upCommand) welcome(ctx context.Context, data string, env map[string]string, f *frontProcess, w *workerProcess,
	out output) error {
	if err := waitReady(ctx, f.health, w.health); err != nil {
		return err
	}
	shown := data
	if wd, err := os.Getwd(); err == nil {
		if relative, err := filepath.Rel(wd, data); err == nil && filepath.IsLocal(relative) {
			shown = relative
		}
	}
	program := os.Args[0]
	fmt.Fprintf(out, `Intake is up at %[1]s

  . %[2]s
  %[7]s
  curl -s "$INTAKE_URL/api/v1/clients" -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d '[{"partner_client_id": "shop-1", "entity_type": "SoleTrader"}]'

  docs     %[1]s/docs (try it with the client id and secret in %[2]s), %[1]s/openapi.yaml
  send     %[8]s send FILE
  partner  %[8]s partner add NAME --currency GBP
  metrics  http://%[3]s/metrics (front), http://%[4]s/metrics (worker)
  logs     %[5]s/%[6]s, and those of its servers in %[5]s/*/*.log
  stop     Ctrl-C; the data is kept in %[5]s

`, f.url(), shellPath(filepath.Join(shown, envFile)), f.admin.Addr(), w.admin.Addr(), shown, logFile, c.howToGetToken(), program)
	if !c.Demo {
		return nil
	}
	return sendSample(ctx, env, out)
}

// howToGetToken is a line of a shell that puts a token into TOKEN.
func (c upCommand) howToGetToken() string {
	if c.NoBuiltinIssuer {
		return "TOKEN=… # from " + c.OAuthIssuer
	}
	return `TOKEN=$(curl -s -u "$INTAKE_CLIENT_ID:$INTAKE_CLIENT_SECRET" -d grant_type=client_credentials "$INTAKE_URL/oauth/token" | sed 's/.*"access_token":"\([^"]*\)".*/\1/')`
}

// shellPath is a file's name such that a shell's dot finds it.
func shellPath(file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return "./" + file
}

// errLocked says that a stack is running in a folder.
var errLocked = errors.New("another intake up is running")

// lock keeps a second stack from the same folder. The lock ends with the process.
func lock(data string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(data, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w in %s: stop it, or choose another folder with --data", errLocked, data)
		}
		return nil, fmt.Errorf("lock %s: %w", data, err)
	}
	return func() { file.Close() }, nil
}

// A localStack is the private servers of an intake up.
type localStack struct {
	data     string
	postgres *local.Postgres
	redis    *local.Redis
	nats     *local.NATS
}

// start starts the servers that have no URL, and fills those in.
func (s *localStack) start(ctx context.Context, c *upCommand) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	if c.PostgresURL == "" {
		group.Go(func() (err error) {
			if s.postgres, err = local.StartPostgres(ctx,
				local.PostgresOptions{Dir: filepath.Join(s.data, "postgres")}); err == nil {
				c.PostgresURL = s.postgres.URL()
			}
			return err
		})
	}
	if c.RedisURL == "" {
		group.Go(func() (err error) {
			if s.redis, err = local.StartRedis(ctx,
				local.RedisOptions{Dir: filepath.Join(s.data, "redis")}); err == nil {
				c.RedisURL = s.redis.URL()
			}
			return err
		})
	}
	if c.NATSURL == "" {
		group.Go(func() (err error) {
			if s.nats, err = local.StartNATS(ctx, local.NATSOptions{Dir: filepath.Join(s.data, "nats")}); err == nil {
				c.NATSURL, c.NATSMonitorURL = s.nats.URL(), []string{s.nats.MonitorURL()}
			}
			return err
		})
	}
	return group.Wait()
}

func (s *localStack) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	if s.nats != nil {
		errs = append(errs, s.nats.Stop(ctx))
	}
	if s.redis != nil {
		errs = append(errs, s.redis.Stop(ctx))
	}
	if s.postgres != nil {
		errs = append(errs, s.postgres.Stop(ctx))
	}
	return errors.Join(errs...)
}
