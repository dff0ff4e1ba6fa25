package main

import (
	"context"
	"fmt"
	"intake/internal/sleep"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// waitAcknowledged waits until the workers have acknowledged everything that is
// queued: until each consumer of the beginning exists and has nothing left.
func (s *stack) waitAcknowledged(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		left, missing, err := s.unacknowledged(ctx)
		if left == 0 && len(missing) == 0 && err == nil {
			return nil
		}
		if !sleep.For(ctx, 100*time.Millisecond) {
			return fmt.Errorf("%d messages are not acknowledged, and the consumers %v are missing (%v)", left, missing,
				err)
		}
	}
}

// unacknowledged returns how many messages are queued or delivered, and which of the
// consumers are missing.
func (s *stack) unacknowledged(ctx context.Context) (left int, missing []string, err error) {
	missing = slices.Clone(s.consumers)
	err = s.withStream(ctx, func(_ jetstream.JetStream, stream jetstream.Stream) error {
		consumers := stream.ListConsumers(ctx)
		for info := range consumers.Info() {
			left += int(info.NumPending) + info.NumAckPending
			missing = slices.DeleteFunc(missing, func(name string) bool { return name == info.Name })
		}
		return consumers.Err()
	})
	return left, missing, err
}

func (s *stack) listConsumers(ctx context.Context) (names []string, err error) {
	err = s.withStream(ctx, func(_ jetstream.JetStream, stream jetstream.Stream) error {
		consumers := stream.ConsumerNames(ctx)
		for name := range consumers.Name() {
			names = append(names, name)
		}
		return consumers.Err()
	})
	slices.Sort(names)
	return names, err
}
