// Command intake takes in batches of partner clients and their revenue claims,
// gives every item its state, and saves the completed ones exactly once.
//
// Each subcommand has a file of its own here, with its flags and its wiring.
// progress.go shows how far a command is, main.go parses the command line and
// decides the exit status.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"
)

type commands struct {
	LogLevel string           `help:"Log messages of this level and above: ${enum}." default:"info" enum:"debug,info,warn,error"`
	Version  kong.VersionFlag `short:"v" env:"-" help:"Print the version."`

	Up          upCommand          `cmd:"" help:"Run the whole stack here: front and worker, with private servers for what has no URL."`
	Send        sendCommand        `cmd:"" help:"Send batches from files, and show the state of each item."`
	Status      statusCommand      `cmd:"" help:"Show the status of a batch by its status_check_id."`
	Get         getCommand         `cmd:"" help:"Print the saved record of a partner client, as JSON."`
	Token       tokenCommand       `cmd:"" help:"Print an access token, as for curl."`
	Generate    generateCommand    `cmd:"" help:"Make batches that look like a partner's, to send or replay."`
	Replay      replayCommand      `cmd:"" help:"Send batches at a rate, or as fast as possible, and report states and latencies."`
	Front       frontCommand       `cmd:"" help:"Run the HTTP front that partners talk to."`
	Worker      workerCommand      `cmd:"" help:"Run a worker, which saves what the fronts have queued."`
	Balance     balanceCommand     `cmd:"" help:"Spread the connections to one port over several fronts, where there is no load balancer."`
	Migrate     migrateCommand     `cmd:"" help:"Bring the schema in Postgres up to date, and the grants of the roles intake_front and intake_worker."`
	Partner     partnerCommand     `cmd:"" help:"Add, list and change partners."`
	Key         keyCommand         `cmd:"" help:"List, rotate and drop the keys that access tokens are signed with."`
	Recover     recoverCommand     `cmd:"" help:"After Postgres was restored from a backup, save again from the queue's log what it lacks."`
	Seen        seenCommand        `cmd:"" help:"Rebuild the seen set in Redis."`
	Dead        deadCommand        `cmd:"" help:"List, show, retry and drop messages of the queue that no worker could read or save."`
	Healthcheck healthcheckCommand `cmd:"" help:"Ask a front or worker on this machine whether it is ready; exits 1 if not."`
	Completion  completionCommand  `cmd:"" help:"Print a script that completes commands and flags in a shell."`
	VersionCmd  versionCommand     `cmd:"" name:"version" help:"Print the version."`
}

// output is where a command prints what it was asked for. Logs go to standard error.
type output struct{ io.Writer }

func main() {
	os.Exit(run())
}

// Exit statuses, beside 0. They are documented in the help.
const (
	statusFailed      = 1
	statusUsage       = 2
	statusInterrupted = 130 // as of a program that SIGINT ends
)

func run() int {
	var cli commands
	unsetEmpty()
	parser, err := kong.New(&cli, parserOptions...)
	if err != nil {
		panic(err) // the tags of commands are wrong
	}
	parsed, err := parser.Parse(rewrite(os.Args[1:]))
	if err != nil {
		fmt.Fprintln(os.Stderr, explainUsage(err))
		return statusUsage
	}
	logger, err := newLogger(cli.LogLevel, "stderr")
	if err != nil {
		fmt.Fprintln(os.Stderr, "intake:", err)
		return statusFailed
	}
	defer logger.Sync()
	// The library has one logger for all clients. The seen set logs what matters.
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
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "intake: interrupted")
		return statusInterrupted
	}
	fmt.Fprintln(os.Stderr, "intake:", err)
	return statusFailed
}

var parserOptions = []kong.Option{
	kong.Name("intake"),
	kong.Description("Intake takes in batches of partner clients and their revenue claims, gives every item its state, " +
		"and saves the completed ones exactly once.\n\n" +
		"A flag can be given as an environment variable where its help names one.\n\n" +
		"Exit status: 0 if all went well, 1 if something failed or was not saved, " +
		"2 for a wrong command line, 130 after Ctrl-C."),
	kong.DefaultEnvars(strings.TrimSuffix(envPrefix, "_")),
	kong.Vars{"version": versionText()},
}

// rewrite makes "help send" of a command line "send --help", and joins a flag with a
// negative number, which the parser would take for another flag.
func rewrite(args []string) (rewritten []string) {
	if len(args) > 0 && args[0] == "help" {
		return append(slices.Clone(args[1:]), "--help")
	}
	flag, negative := regexp.MustCompile(`^--[^=]+$`), regexp.MustCompile(`^-[0-9.]`)
	for i, arg := range args {
		if i > 0 && flag.MatchString(args[i-1]) && negative.MatchString(arg) {
			rewritten[len(rewritten)-1] += "=" + arg
			continue
		}
		rewritten = append(rewritten, arg)
	}
	return rewritten
}

// explainUsage says what is wrong with a command line, and where to read on.
func explainUsage(err error) string {
	text, command := err.Error(), "intake"
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		for _, step := range parse.Context.Path {
			if step.Command != nil {
				command += " " + step.Command.Name
			}
		}
		if missing := missingFlags(parse.Context); parse.Context.Error == nil && len(missing) > 0 {
			text = "missing: " + strings.Join(missing, ", ")
		}
	}
	return fmt.Sprintf("intake: %s\nRun %q for help.", text, command+" --help")
}

// missingFlags lists the required flags that have no value, with their variables.
func missingFlags(ctx *kong.Context) (missing []string) {
	for _, step := range ctx.Path {
		for _, flag := range step.Flags {
			if !flag.Required || flag.Set {
				continue
			}
			text := "--" + flag.Name
			if len(flag.Envs) > 0 {
				text += " (or $" + flag.Envs[0] + ")"
			}
			missing = append(missing, text)
		}
	}
	return missing
}

const envPrefix = "INTAKE_"

// unsetEmpty unsets variables that are empty: docker-compose passes on an empty
// text for what isn't set, and an empty text is no number and no time.
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

// An exitStatus is an error that ends the program with a status. What there is to
// say has been printed.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// onSignal ends the context at the first SIGINT or SIGTERM. The next one ends the
// program immediately.
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

// newLogger returns a logger that writes to a file, or to "stderr": JSON lines, or
// text for people if standard error is a terminal.
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
	if file == "stderr" && term.IsTerminal(int(os.Stderr.Fd())) {
		config.Encoding = "console"
		config.DisableCaller = true
		config.EncoderConfig.EncodeLevel = zapcore.CapitalColorLevelEncoder
		config.EncoderConfig.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
	}
	return config.Build()
}
