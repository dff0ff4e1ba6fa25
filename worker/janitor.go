package worker

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// tidyEvery is how often a worker looks at the log. What is purged then is
// room for the next batches: it must come faster than the other half fills.
const tidyEvery = 2 * time.Second

// tidy keeps the log within its room until ctx ends. All workers do it at once;
// purging what another has purged does nothing.
func (w *Worker) tidy(ctx context.Context) {
	for sleep(ctx, tidyEvery) {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := w.purgeProcessed(try)
		cancel()
		if err != nil && !isGone(err) {
			w.opts.Logger.Debug("cannot tidy the log", zap.Error(err))
		}
	}
}

// purgeProcessed drops messages from the log that are older than Keep, and as
// many more as it takes for half of the room to be free. It never drops one
// that isn't acknowledged, nor any behind it.
func (w *Worker) purgeProcessed(ctx context.Context) error {
	stream, err := w.js.Stream(ctx, StreamName)
	if err != nil {
		return err
	}
	state, config := stream.CachedInfo().State, stream.CachedInfo().Config
	if state.Msgs == 0 {
		return nil
	}
	keep := state.FirstSeq // the first that may stay
	if oldest := time.Now().Add(-w.opts.Keep); state.FirstTime.Before(oldest) {
		if keep, err = firstSince(ctx, stream, keep, state.LastSeq+1, oldest); err != nil {
			return err
		}
	}
	if room := uint64(config.MaxBytes) / 2; config.MaxBytes > 0 && state.Bytes > room {
		average := max(state.Bytes/state.Msgs, 1)
		keep = max(keep, state.FirstSeq+(state.Bytes-room)/average+1)
	}
	keep = min(keep, state.LastSeq+1)
	for _, lane := range lanes {
		if keep <= state.FirstSeq {
			return nil
		}
		if keep, err = firstUnprocessed(ctx, stream, lane, keep); err != nil {
			return err
		}
	}
	if keep <= state.FirstSeq {
		return nil
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSequence(keep)); err != nil {
		return fmt.Errorf("purge the log: %w", err)
	}
	return nil
}

// firstUnprocessed finds the first message of a lane that isn't acknowledged,
// before end; end if there is none.
func firstUnprocessed(ctx context.Context, stream jetstream.Stream, lane string, end uint64) (uint64, error) {
	consumer, err := stream.Consumer(ctx, consumerOf(lane))
	if err != nil {
		return 0, err
	}
	next := consumer.CachedInfo().AckFloor.Stream + 1
	if next >= end {
		return end, nil
	}
	// The floor stays behind while nothing comes in this lane.
	msg, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(subjectPrefix+lane+".>"))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return end, nil
	case err != nil:
		return 0, fmt.Errorf("look for what is not processed: %w", err)
	}
	return min(msg.Sequence, end), nil
}

// firstSince finds the first message between two sequences that was stored
// since a moment; end if there is none.
func firstSince(ctx context.Context, stream jetstream.Stream, first, end uint64, moment time.Time) (uint64, error) {
	var failed error
	n := sort.Search(int(end-first), func(i int) bool {
		msg, err := stream.GetMsg(ctx, first+uint64(i))
		switch {
		case failed != nil || errors.Is(err, jetstream.ErrMsgNotFound): // another worker has purged it
			return false
		case err != nil:
			failed = err
			return false
		}
		return !msg.Time.Before(moment)
	})
	return first + uint64(n), failed
}
