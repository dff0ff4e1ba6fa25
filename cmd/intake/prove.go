package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"intake/cmd/intake/internal/prove"
	"intake/deploy/local"
	"intake/internal/failpoint"
)

type proveCommand struct {
	Duration time.Duration `default:"5m" help:"How long faults are made, under load."`
	Seed     uint64        `help:"Seed of the load and of the faults; any if 0. It is printed."`
	Cluster  bool          `help:"Three NATS servers, a Redis Cluster of three, three workers, and the standby."`
	Standby  bool          `help:"Postgres has a synchronous standby, which takes its place when it is lost."`
	Report   string        `default:"prove.html" help:"File for the report, a page with a picture."`
}

func (c proveCommand) Run(ctx context.Context, out output) error {
	if c.Seed == 0 {
		c.Seed = rand.Uint64N(1_000_000)
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "intake-prove-")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // Postgres may run as another user
		return err
	}
	fmt.Fprintf(out, "seed %d, %s; logs are in %s\n", c.Seed, c.Duration, dir)
	report, err := prove.Run(ctx, prove.Options{
		Program: program, Dir: dir, Duration: c.Duration, Seed: c.Seed, Cluster: c.Cluster, Standby: c.Standby,
		Failpoints: failpoint.Enabled, Out: out,
	})
	if err != nil {
		return fmt.Errorf("%w; logs are in %s", err, dir)
	}
	report.Print(out)
	file, err := os.Create(c.Report)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := report.HTML(file); err != nil {
		return err
	}
	fmt.Fprintf(out, "the report is %s\n", c.Report)
	if !report.Holds() {
		fmt.Fprintf(out, "the logs are kept in %s\n", dir)
		return exitStatus(1)
	}
	return os.RemoveAll(dir)
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
