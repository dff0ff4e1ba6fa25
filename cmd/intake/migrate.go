package main

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"intake/sink"
)

type migrateCommand struct {
	PostgresURL string        `name:"postgres-url" required:"" help:"Database to bring up to date: postgres://user:password@host/database."`
	NewEpoch    bool          `env:"-" help:"Forget what was seen before: after a restore of a Postgres that does not tell when it was started, before fronts and workers are started again."`
	Timeout     time.Duration `default:"5m" help:"How long it may take, waiting for Postgres included."`
}

func (c migrateCommand) Run(ctx context.Context, logger *zap.Logger, out output) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	version, applied, err := sink.Migrate(ctx, c.PostgresURL)
	if err != nil {
		return err
	}
	if c.NewEpoch {
		if err := sink.NewEpoch(ctx, c.PostgresURL); err != nil {
			return err
		}
		fmt.Fprintln(out, "a new epoch has begun: what was seen before is asked no more")
	}
	missing, err := sink.MissingRoles(ctx, c.PostgresURL)
	if err != nil {
		return err
	}
	for _, role := range missing {
		logger.Warn("there is no such role to grant rights to: create it and run intake migrate again, or connect as the owner",
			zap.String("role", role))
	}
	_, err = fmt.Fprintf(out, "the schema has version %d, %d migrations taken\n", version, applied)
	return err
}
