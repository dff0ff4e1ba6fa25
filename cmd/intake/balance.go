package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"go.uber.org/zap"

	"intake/cmd/intake/internal/balance"
)

type balanceCommand struct {
	Listen          string        `default:"127.0.0.1:8080" help:"Address that partners talk to."`
	Fronts          string        `required:"" placeholder:"HOST:PORT" help:"A name that has the addresses of all fronts, and their port, as in front:8080."`
	ShutdownTimeout time.Duration `default:"10s" help:"How long open connections may go on at shutdown."`
}

func (c balanceCommand) Run(ctx context.Context, logger *zap.Logger) error {
	host, port, err := net.SplitHostPort(c.Fronts)
	if err != nil {
		return fmt.Errorf("--fronts: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return addressError("--listen", err)
	}
	logger = logger.Named("balance")
	logger.Info("balancer started", zap.String("listen", listener.Addr().String()), zap.String("fronts", c.Fronts))
	defer logger.Info("balancer stopped")
	return balance.Serve(ctx, listener, balance.Options{Host: host, Port: port, Grace: c.ShutdownTimeout,
		Logger: logger})
}
