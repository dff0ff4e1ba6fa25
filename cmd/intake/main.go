// Command intake takes in batches of partner clients and their revenue claims,
// gives every item its state, and saves the completed ones exactly once.
//
// Each subcommand has a file of its own here, with its flags and its wiring.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

type commands struct {
	LogLevel string `help:"How much is logged: ${enum}." default:"info" enum:"debug,info,warn,error"`

	Up          upCommand          `cmd:"" help:"Run the whole stack here: front and worker, with private servers for what has no URL."`
	Send        sendCommand        `cmd:"" help:"Send batches from files, and show what became of them."`
	Generate    generateCommand    `cmd:"" help:"Make batches that look like a partner's, to send or replay."`
	Replay      replayCommand      `cmd:"" help:"Send batches at a rate, or as fast as it goes, and report what became of them and how long it took."`
	Front       frontCommand       `cmd:"" help:"Run the HTTP front that partners talk to."`
	Worker      workerCommand      `cmd:"" help:"Run a worker, which saves what the fronts have queued."`
	Migrate     migrateCommand     `cmd:"" help:"Bring the schema in Postgres up to date, and what the roles intake_front and intake_worker may do there."`
	Partner     partnerCommand     `cmd:"" help:"Add, list and change partners."`
	Key         keyCommand         `cmd:"" help:"List, rotate and drop the keys that access tokens are signed with."`
	Recover     recoverCommand     `cmd:"" help:"Save again what a Postgres that was restored from a backup has lost, from the queue's log."`
	Seen        seenCommand        `cmd:"" help:"Look after the seen set in Redis."`
	Dead        deadCommand        `cmd:"" help:"List, show, retry and drop messages of the queue that no worker could read or save."`
	Healthcheck healthcheckCommand `cmd:"" help:"Ask a front or worker on this machine whether it is ready; exits 1 if not."`
	Version     versionCommand     `cmd:"" help:"Print the version."`
}

// output is where a command prints what it was asked for. Logs go to standard error.
type output struct{ io.Writer }

func main() {
	os.Exit(run())
}

func run() int {
	var cli commands
	unsetEmpty()
	parsed := kong.Parse(&cli, parserOptions...)
	logger, err := newLogger(cli.LogLevel, "stderr")
	if err != nil {
		fmt.Fprintln(os.Stderr, "intake:", err)
		return 1
	}
	defer logger.Sync()
	// The library has one logger for all clients. What matters of it, the seen
	// set says.
	redis.SetLogger(redisLog{logger.Named("redis")})
	ctx, stop := onSignal(context.Background())
	defer stop()
	parsed.BindTo(ctx, (*context.Context)(nil))
	err = parsed.Run(logger, output{os.Stdout})
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	fmt.Fprintln(os.Stderr, "intake:", err)
	return 1
}

var parserOptions = []kong.Option{
	kong.Name("intake"),
	kong.Description("Intake takes in batches of partner clients and their revenue claims, gives every item its state, and saves the completed ones exactly once.\n\nA flag can be given as an environment variable where its help names one."),
	kong.DefaultEnvars(strings.TrimSuffix(envPrefix, "_")),
	kong.UsageOnError(),
}

const envPrefix = "INTAKE_"

// unsetEmpty has a variable that is empty be as good as none: what docker-compose
// passes on is empty where it isn't set, and an empty text is no number and no time.
func unsetEmpty() {
	for _, variable := range os.Environ() {
		if name, value, _ := strings.Cut(variable, "="); value == "" && strings.HasPrefix(name, envPrefix) {
			_ = os.Unsetenv(name) // its name is one that was set
		}
	}
}

type redisLog struct{ logger *zap.Logger }

func (l redisLog) Printf(_ context.Context, format string, args ...any) {
	l.logger.Debug(fmt.Sprintf(format, args...))
}

// An exitStatus ends the program with a status when all has been said.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// onSignal ends the context at the first SIGINT or SIGTERM. From before it has ended,
// the next one ends the program at once.
func onSignal(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		defer cancel()
		select {
		case <-signals:
		case <-ctx.Done():
		}
		signal.Stop(signals)
	}()
	return ctx, cancel
}

// newLogger makes a logger that writes JSON lines to a file, or to "stderr".
func newLogger(level, file string) (*zap.Logger, error) {
	parsed, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, err
	}
	config := zap.NewProductionConfig()
	config.Level = zap.NewAtomicLevelAt(parsed)
	config.Sampling = nil
	config.DisableStacktrace = true
	config.OutputPaths, config.ErrorOutputPaths = []string{file}, []string{"stderr"}
	config.EncoderConfig.EncodeTime = zapcore.ISO8601TimeEncoder
	return config.Build()
}
