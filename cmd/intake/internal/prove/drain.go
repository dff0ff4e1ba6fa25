package prove

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// drain waits until the workers have acknowledged all that is queued.
func (s *stack) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return s.withStream(ctx, func(_ jetstream.JetStream, stream jetstream.Stream) error {
		for {
			left, err := unacknowledged(ctx, stream)
			if left == 0 && err == nil {
				return nil
			}
			if !sleep(ctx, 100*time.Millisecond) {
				return fmt.Errorf("%d messages are left (%v)", left, err)
			}
		}
	})
}

func unacknowledged(ctx context.Context, stream jetstream.Stream) (left int, err error) {
	consumers := stream.ListConsumers(ctx)
	for info := range consumers.Info() {
		left += int(info.NumPending) + info.NumAckPending
	}
	return left, consumers.Err()
}
