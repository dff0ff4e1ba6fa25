// Command prove tries to catch Intake at losing, doubling or misreporting a record.
//
//  1. It starts fronts, workers and servers, each as a process (stack.go, cluster.go,
//     standby.go), with a proxy on each connection.
//  2. Clients send batches whose keys collide (load.go, keyed.go, stream.go, pieces.go)
//     and check their status (status.go).
//  3. Meanwhile a nemesis makes faults (nemesis.go, redis.go, takeover.go): it kills,
//     stops and restarts processes, cuts and slows connections, and makes servers refuse.
//  4. When all faults are undone, an audit (audit.go) compares every answer with the
//     records in Postgres and checks further promises: admission.go, overload.go,
//     conserve.go, seen.go, deadlocks.go, restore.go.
//  5. It writes a report (report.go), and exits with 1 if a promise was broken, 2 for a
//     wrong command line, and 130 after Ctrl-C.
//
// planted_test.go has bugs that a run must find. Run it with make prove.
package main

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"intake/internal/local"
)

type commands struct {
	Run  runCommand  `cmd:"" default:"withargs" help:"Run Intake under load and faults, and check every answer."`
	NATS natsCommand `cmd:"" hidden:"" name:"nats"`
}

func main() {
	os.Exit(run())
}

// errBroken reports that a promise was broken. The report says which.
var errBroken = errors.New("a promise was broken")

func run() int {
	var cli commands
	parser, err := kong.New(&cli, kong.Name("prove"),
		kong.Description("Run Intake under load and faults, and check every answer. Exit status: 0 if every promise was kept, "+
			"1 if one was broken or the run failed, 2 for a wrong command line, 130 after Ctrl-C."))
	if err != nil {
		panic(err) // the tags of commands are wrong
	}
	parsed, err := parser.Parse(os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "prove: %v\nRun \"prove --help\" for help.\n", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	parsed.BindTo(ctx, (*context.Context)(nil))
	err = parsed.Run()
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "prove: interrupted:", err)
		return 130
	}
	if err != nil && !errors.Is(err, errBroken) {
		fmt.Fprintln(os.Stderr, "prove:", err)
	}
	if err != nil {
		return 1
	}
	return 0
}

type runCommand struct {
	Intake   string        `default:"bin/intake" help:"The program to test. If it is built with the tag failpoints, requests are also paused between two steps."`
	Duration time.Duration `default:"5m" help:"How long faults are made."`
	Seed     uint64        `help:"Seed of the load and of the faults, which is printed. 0: a random one."`
	Cluster  bool          `help:"Run three NATS servers, a Redis Cluster of three, three workers, and the standby."`
	Standby  bool          `help:"Run a synchronous standby of Postgres, and fail over to it."`
	Report   string        `default:"prove.html" help:"File for the report, an HTML page."`
}

// Run runs the command.
func (c runCommand) Run(ctx context.Context) error {
	if c.Seed == 0 {
		c.Seed = rand.Uint64N(1_000_000)
	}
	program, err := filepath.Abs(c.Intake)
	if err != nil {
		return err
	}
	failpoints, err := hasFailpoints(program)
	if err != nil {
		return fmt.Errorf("--intake: %w; make build makes it", err)
	}
	dir, err := os.MkdirTemp("", "intake-prove-")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // Postgres may run as another user
		return err
	}
	fmt.Printf("seed %d, %s; logs are in %s\n", c.Seed, c.Duration, dir)
	report, err := Run(ctx, Options{
		Program: program, Dir: dir, Duration: c.Duration, Seed: c.Seed, Cluster: c.Cluster, Standby: c.Standby,
		Failpoints: failpoints, Out: os.Stdout,
	})
	if err != nil {
		return fmt.Errorf("%w; the logs are in %s", err, dir)
	}
	report.Print(os.Stdout)
	file, err := os.Create(c.Report)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := report.HTML(file); err != nil {
		return err
	}
	fmt.Printf("the report is %s\n", c.Report)
	if !report.Holds() {
		fmt.Printf("the logs are kept in %s\n", dir)
		return errBroken
	}
	return os.RemoveAll(dir)
}

// hasFailpoints reports whether a program was built with the tag failpoints.
func hasFailpoints(program string) (bool, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool {
		return s.Key == "-tags" && slices.Contains(strings.Split(s.Value, ","), "failpoints")
	}), nil
}

// natsCommand is a NATS as a process of its own, for prove.
type natsCommand struct {
	Dir string `arg:"" help:"Folder for its data."`
	URL string `arg:"" help:"File that its URL is written to."`

	MaxPayload  int32    `help:"Bound on a message, in bytes."`
	Name        string   `help:"Its name in a cluster."`
	ClusterPort int      `help:"Where the other servers of a cluster reach it."`
	Routes      []string `help:"The other servers of the cluster, as in nats://127.0.0.1:6222."`
}

func (c natsCommand) Run(ctx context.Context) error {
	options := local.NATSOptions{Dir: filepath.Clean(c.Dir), MaxPayload: c.MaxPayload}
	if c.ClusterPort != 0 {
		options.Cluster = &local.NATSCluster{Name: c.Name, Port: c.ClusterPort, Routes: c.Routes}
	}
	nats, err := local.StartNATS(ctx, options)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.URL, []byte(nats.URL()), 0o600); err != nil {
		return err
	}
	<-ctx.Done()
	stop, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return nats.Stop(stop)
}
