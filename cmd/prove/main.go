// Command prove tries to catch Intake at losing, doubling or misreporting a
// record. It runs fronts, workers and servers as processes of their own, sends
// batches whose keys collide again and again, and meanwhile kills, stops and cuts off
// each part at random. Then it heals everything, waits until all is final, and compares
// every answer with what is in Postgres.
//
// Run it with make prove.
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
	Run  runCommand  `cmd:"" default:"withargs" help:"Run Intake under load, make faults meanwhile, and check every answer."`
	NATS natsCommand `cmd:"" hidden:"" name:"nats"`
}

func main() {
	os.Exit(run())
}

// errBroken reports that a promise was broken; the report has said which.
var errBroken = errors.New("a promise was broken")

func run() int {
	var cli commands
	parsed := kong.Parse(&cli, kong.Name("prove"), kong.ShortUsageOnError())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	parsed.BindTo(ctx, (*context.Context)(nil))
	err := parsed.Run()
	if err != nil && !errors.Is(err, errBroken) {
		fmt.Fprintln(os.Stderr, "prove:", err)
	}
	if err != nil {
		return 1
	}
	return 0
}

type runCommand struct {
	Intake   string        `default:"bin/intake" help:"The program to test. Built with the tag failpoints, it is also stopped between two steps of a request."`
	Duration time.Duration `default:"5m" help:"How long faults are made, under load."`
	Seed     uint64        `help:"Seed of the load and of the faults; random if 0. It is printed."`
	Cluster  bool          `help:"Three NATS servers, a Redis Cluster of three, three workers, and the standby."`
	Standby  bool          `help:"Postgres has a synchronous standby, which takes its place when it is lost."`
	Report   string        `default:"prove.html" help:"File for the report, a page with a picture."`
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
		return fmt.Errorf("%w; logs are in %s", err, dir)
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
