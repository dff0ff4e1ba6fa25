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

// tidyEvery is how often a worker looks at the log. What is purged then is
// room for the next batches: it must come faster than the other half fills.
const tidyEvery = 2 * time.Second

// measureEvery is after how many looks a worker measures the age of what is not processed.
const measureEvery = 5

// tidy keeps the log within its room until ctx ends. All workers do it at once;
// purging what another has purged does nothing.
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

// purgeProcessed drops messages from the log that are older than Keep, and as
// many more as it takes for half of the room to be free. It never drops one
// that isn't processed, nor any behind it.
func (w *Worker) purgeProcessed(ctx context.Context) error {
	stream, err := w.js.Stream(ctx, queue.StreamName)
	if err != nil {
		return err
	}
	state, config := stream.CachedInfo().State, stream.CachedInfo().Config
	if state.Msgs == 0 {
		return nil
	}
	keep := state.FirstSeq // the first that may stay
	// By the clock of NATS, which has stamped the messages.
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

// firstUnprocessed finds the first message between two sequences that isn't processed;
// end if there is none. One that no consumer is to deliver counts as unprocessed: it may
// be of a lane that only a later version has, whose workers are yet to come.
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

func filtersOf(info *jetstream.ConsumerInfo) []string {
	switch {
	case len(info.Config.FilterSubjects) > 0:
		return info.Config.FilterSubjects
	case info.Config.FilterSubject != "":
		return []string{info.Config.FilterSubject}
	}
	return []string{">"}
}

// firstUnacked finds the first message of a consumer that isn't acknowledged; nil if
// there is none.
func firstUnacked(ctx context.Context, stream jetstream.Stream, info *jetstream.ConsumerInfo) (*jetstream.RawStreamMsg, error) {
	var first *jetstream.RawStreamMsg
	for _, filter := range filtersOf(info) {
		// The floor stays behind while nothing comes in the lane.
		msg, err := stream.GetMsg(ctx, info.AckFloor.Stream+1, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look for what is not processed: %w", err)
		}
		if first == nil || msg.Sequence < first.Sequence {
			first = msg
		}
	}
	return first, nil
}

// firstUncovered finds the first message between two sequences whose subject no filter
// matches; end if there is none. It looks at no more than some thousand messages, and
// ends there.
func firstUncovered(ctx context.Context, stream jetstream.Stream, first, end uint64, filters []string) (next uint64, err error) {
	const most = 10_000
	if first >= end {
		return end, nil
	}
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: first, AckPolicy: jetstream.AckNonePolicy,
		HeadersOnly: true, MemoryStorage: true, Replicas: 1, InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return 0, fmt.Errorf("look at subjects in the log: %w", err)
	}
	defer func() { _ = stream.DeleteConsumer(ctx, consumer.CachedInfo().Name) }()
	batch, err := consumer.FetchNoWait(int(min(end-first, most)))
	if err != nil {
		return 0, fmt.Errorf("look at subjects in the log: %w", err)
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
		return 0, fmt.Errorf("look at subjects in the log: %w", err)
	}
	return next, nil
}

// subjectMatches reports whether a filter of a consumer matches a subject.
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

// measureAge measures how long the oldest message that isn't processed has waited, by the
// clock of NATS, in the waiting lane and in the later ones.
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
