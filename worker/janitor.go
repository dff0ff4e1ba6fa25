package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"intake/internal/sleep"
	"intake/worker/queue"
)

// tidyEvery is how often a worker looks at the log. It has to purge half of the log faster than fronts fill
// the other half.
const tidyEvery = 2 * time.Second

// measureEvery is how many looks there are for each measurement of the oldest unprocessed message.
const measureEvery = 5

// tidy keeps the log within its bounds until ctx ends. All workers do so; purging what is purged already does
// nothing.
func (w *Worker) tidy(ctx context.Context) {
	for n := 0; sleep.For(ctx, tidyEvery); n++ {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := w.purgeProcessed(try)
		if n%measureEvery == 0 {
			err = errors.Join(err, w.measureAge(try))
		}
		cancel()
		if err != nil && !isGone(err) {
			w.opts.Logger.Debug("cannot tidy the log", zap.Error(err))
		}
	}
}

// purgeProcessed purges messages from the log that are older than Keep, and as many more as it takes to free
// half of it. It never purges a message that is not processed, or any behind it.
func (w *Worker) purgeProcessed(ctx context.Context) error {
	stream, err := w.js.Stream(ctx, queue.StreamName)
	if err != nil {
		return err
	}
	state, config := stream.CachedInfo().State, stream.CachedInfo().Config
	if state.Msgs == 0 {
		return nil
	}
	keep := state.FirstSeq // the first message to keep
	// By the clock of NATS, as messages have its timestamps.
	if oldest := stream.CachedInfo().TimeStamp.Add(-w.opts.Keep); state.FirstTime.Before(oldest) {
		if keep, err = firstSince(ctx, stream, keep, state.LastSeq+1, oldest); err != nil {
			return err
		}
	}
	if room := uint64(config.MaxBytes) / 2; config.MaxBytes > 0 && state.Bytes > room {
		average := max(state.Bytes/state.Msgs, 1)
		keep = max(keep, state.FirstSeq+(state.Bytes-room)/average+1)
	}
	keep = min(keep, state.LastSeq+1)
	if keep, err = w.firstUnprocessed(ctx, stream, state.FirstSeq, keep); err != nil {
		return err
	}
	if keep <= state.FirstSeq {
		return nil
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSequence(keep)); err != nil {
		return fmt.Errorf("purge the log: %w", err)
	}
	return nil
}

// firstUnprocessed returns the sequence of the first unprocessed message in [first, end), or end if there is
// none. A message that no consumer delivers counts as unprocessed: it may be of a lane of a later version,
// whose workers have not started yet.
func (w *Worker) firstUnprocessed(ctx context.Context, stream jetstream.Stream, first, end uint64) (uint64, error) {
	if first >= end {
		return first, nil
	}
	consumers, err := queue.LaneConsumers(ctx, stream)
	if err != nil {
		return 0, err
	}
	var filters []string
	for _, info := range consumers {
		filters = append(filters, filtersOf(info)...)
		if info.AckFloor.Stream+1 >= end {
			continue
		}
		msg, err := firstUnacked(ctx, stream, info)
		if err != nil {
			return 0, err
		}
		if msg != nil {
			end = min(end, msg.Sequence)
		}
	}
	return firstUncovered(ctx, stream, first, end, filters)
}

// filtersOf returns the subjects that a consumer delivers.
func filtersOf(info *jetstream.ConsumerInfo) []string {
	switch {
	case len(info.Config.FilterSubjects) > 0:
		return info.Config.FilterSubjects
	case info.Config.FilterSubject != "":
		return []string{info.Config.FilterSubject}
	}
	return []string{">"}
}

// firstUnacked returns the first message that a consumer has no ack for, or nil.
func firstUnacked(
	ctx context.Context, stream jetstream.Stream, info *jetstream.ConsumerInfo,
) (*jetstream.RawStreamMsg, error) {
	var first *jetstream.RawStreamMsg
	for _, filter := range filtersOf(info) {
		// The floor does not move while the lane gets no messages.
		msg, err := stream.GetMsg(ctx, info.AckFloor.Stream+1, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find what is not processed: %w", err)
		}
		if first == nil || msg.Sequence < first.Sequence {
			first = msg
		}
	}
	return first, nil
}

// firstUncovered returns the sequence of the first message in [first, end) whose subject matches no filter, or
// end if there is none. It looks at ten thousand messages at most, and returns where it has stopped.
func firstUncovered(
	ctx context.Context, stream jetstream.Stream, first, end uint64, filters []string,
) (next uint64, err error) {
	const most = 10_000
	if first >= end {
		return end, nil
	}
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: first, AckPolicy: jetstream.AckNonePolicy,
		HeadersOnly: true, MemoryStorage: true, Replicas: 1, InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return 0, fmt.Errorf("read subjects in the log: %w", err)
	}
	defer func() { _ = stream.DeleteConsumer(ctx, consumer.CachedInfo().Name) }()
	batch, err := consumer.FetchNoWait(int(min(end-first, most)))
	if err != nil {
		return 0, fmt.Errorf("read subjects in the log: %w", err)
	}
	next = first
	covered := true
	for msg := range batch.Messages() {
		meta, err := msg.Metadata()
		if err != nil || !covered || next == end {
			continue
		}
		matches := func(filter string) bool { return subjectMatches(msg.Subject(), filter) }
		if covered = meta.Sequence.Stream >= end || slices.ContainsFunc(filters, matches); covered {
			next = min(meta.Sequence.Stream+1, end)
		}
	}
	if err := batch.Error(); err != nil {
		return 0, fmt.Errorf("read subjects in the log: %w", err)
	}
	return next, nil
}

// subjectMatches reports whether a subject matches a consumer's filter.
func subjectMatches(subject, filter string) bool {
	tokens := strings.Split(subject, ".")
	wanted := strings.Split(filter, ".")
	for i, want := range wanted {
		switch {
		case want == ">":
			return len(tokens) > i
		case i == len(tokens) || want != "*" && want != tokens[i]:
			return false
		}
	}
	return len(tokens) == len(wanted)
}

// measureAge measures how long the oldest unprocessed message has waited, by the clock of NATS, in the waiting
// lane and in the later ones.
func (w *Worker) measureAge(ctx context.Context) error {
	stream, err := w.js.Stream(ctx, queue.StreamName)
	if err != nil {
		return err
	}
	consumers, err := queue.LaneConsumers(ctx, stream)
	if err != nil {
		return err
	}
	ages := map[string]time.Duration{queue.WaitingLane: 0, laterLanes: 0}
	for _, info := range consumers {
		if info.NumPending == 0 && info.NumAckPending == 0 {
			continue
		}
		msg, err := firstUnacked(ctx, stream, info)
		if err != nil {
			return err
		}
		if msg == nil {
			continue
		}
		lane := laterLanes
		if info.Name == queue.ConsumerName(queue.WaitingLane) {
			lane = queue.WaitingLane
		}
		ages[lane] = max(ages[lane], stream.CachedInfo().TimeStamp.Sub(msg.Time))
	}
	for lane, age := range ages {
		w.metrics.age.WithLabelValues(lane).Set(age.Seconds())
	}
	return nil
}

// firstSince returns the sequence of the first message in [first, end) that was stored at a moment or later,
// or end if there is none.
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
