package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"intake"
	"intake/internal/failpoint"
	"intake/internal/sleep"
)

// saveGatherings saves one gathering after the other until the backlog is closed.
func (w *Worker) saveGatherings(ctx context.Context) {
	for {
		gathering := w.backlog.nextGathering()
		if gathering == nil {
			return
		}
		w.saveGathering(ctx, gathering)
		w.backlog.release(gathering)
	}
}

// saveGathering saves a gathering and settles it. If it cannot be saved, its messages are handed back
// to the queue, or given up.
func (w *Worker) saveGathering(ctx context.Context, gathering []*held) {
	saved, err := w.keepTrying(ctx, gathering)
	stranger, isStranger := errors.AsType[*intake.UnknownPartnerError](err)
	suspect := gathering[0]
	switch {
	case err == nil:
		w.backlog.committed(gathering)
		w.suspects.noteSaved(gathering)
		w.settle(ctx, gathering, saved)
	case isStranger:
		w.saveWithout(ctx, gathering, stranger)
	case suspect.isSuspect() && errors.Is(err, intake.ErrUnsavable) && w.isHopeless(suspect.msg):
		w.bury(ctx, suspect.msg, suspect.delivery, err)
	default:
		for _, h := range gathering {
			_ = h.msg.NakWithDelay(w.nakDelay(h.delivery))
		}
	}
}

// keepTrying saves the chunks of a gathering. It tries until it succeeds, the store says that it has no
// such partner, the worker stops, or the gathering has to be handed back.
func (w *Worker) keepTrying(ctx context.Context, gathering []*held) (saved intake.Saved, err error) {
	const firstDelay, maxDelay = 50 * time.Millisecond, time.Second
	var chunks []*intake.Chunk
	items := 0
	for _, h := range gathering {
		chunks = append(chunks, h.chunks...)
		items += h.items
	}
	w.metrics.gathering.Observe(float64(items))
	failpoint.Hit("worker/taken")
	began := time.Now()
	for delay := firstDelay; ; delay = min(2*delay, maxDelay) {
		if saved, err = w.save(ctx, chunks); err == nil {
			if w.failing.CompareAndSwap(true, false) {
				w.opts.Logger.Info("saving again")
			}
			return saved, nil
		}
		w.metrics.failures.Inc()
		if _, ok := errors.AsType[*intake.UnknownPartnerError](err); ok {
			return saved, err
		}
		if !w.failing.Swap(true) {
			w.opts.Logger.Warn("cannot save, trying again until it works",
				zap.Int("chunks", len(chunks)), zap.Int("items", items), zap.Error(err))
		} else {
			w.opts.Logger.Debug("still cannot save", zap.Int("chunks", len(chunks)), zap.Error(err))
		}
		// Hand back a gathering that was redelivered before, or has used up its patience, so that it
		// does not block others. Don't while the store is unreachable: every message would then look
		// like one that cannot be saved.
		handBack := gathering[0].isSuspect() || time.Since(began) > w.patience
		if w.backlog.isClosed() || handBack && w.reachesStore(ctx) || !sleep.For(ctx, delay) {
			return saved, err
		}
	}
}

// saveWithout moves the messages of a partner that the store does not have to the dead letters, and saves
// the rest of their gathering.
func (w *Worker) saveWithout(ctx context.Context, gathering []*held, stranger *intake.UnknownPartnerError) {
	isOf := func(chunk *intake.Chunk) bool {
		return chunk.Partner == stranger.ID && chunk.PartnerName == stranger.Name
	}
	var others []*held
	for _, h := range gathering {
		if slices.ContainsFunc(h.chunks, isOf) {
			w.bury(ctx, h.msg, h.delivery, stranger)
		} else {
			others = append(others, h)
		}
	}
	if len(others) > 0 {
		w.saveGathering(ctx, others)
	}
}

// reachesStore reports whether the store answers.
func (w *Worker) reachesStore(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return w.opts.Store.Ping(ctx) == nil
}

// save runs one transaction and measures it.
func (w *Worker) save(ctx context.Context, chunks []*intake.Chunk) (intake.Saved, error) {
	began := time.Now()
	saved, err := w.opts.Store.Save(ctx, chunks)
	w.metrics.save.Observe(time.Since(began).Seconds())
	if err == nil && len(saved.Outcomes) != len(chunks) {
		err = fmt.Errorf("the store returned %d outcomes for %d chunks", len(saved.Outcomes), len(chunks))
	}
	return saved, err
}

// nakDelay returns how long a message that is handed back stays away. It grows with the deliveries; without
// a delay JetStream would deliver it again immediately.
func (w *Worker) nakDelay(delivery uint64) time.Duration {
	return min(w.firstNak<<min(delivery, 7), 30*time.Second)
}
