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
	Timeout     time.Duration `default:"5m" help:"How long it may take, waiting for Postgres included."`
}

func (c migrateCommand) Run(ctx context.Context, logger *zap.Logger, out output) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	version, applied, err := sink.Migrate(ctx, c.PostgresURL)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "the schema has version %d, %d migrations taken\n", version, applied)
	return err
}
