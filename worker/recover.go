package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"intake"
	"intake/internal/sleep"
	"intake/worker/queue"
)

// A RecoveryStore is a data store that may have lost what it had saved.
type RecoveryStore interface {
	// Outcomes returns the outcomes of those chunks of the batches that are finished.
	Outcomes(ctx context.Context, batches []uuid.UUID) ([]intake.Outcome, error)
	// Claim claims an Idempotency-Key for a batch, unless it was claimed before.
	Reserve(
		ctx context.Context, partner int32, key string, hash [32]byte, batch uuid.UUID, lease time.Duration,
	) (intake.Reservation, error)
	Store
}

// RecoverOptions are the options of [Recover]. Store and Partners are required.
type RecoverOptions struct {
	Store RecoveryStore
	// Partners are the names of those that the data store has, by ID.
	Partners map[int32]string
	// Since is the time from which on messages are looked at. The default is the whole log.
	Since time.Time
	// Progress, if not nil, is called with the number of messages looked at, and of all.
	Progress func(done, total uint64)
}

// Recovered is the result of [Recover].
type Recovered struct {
	// Messages is how many were looked at, and Chunks and Items what they held.
	Messages int `json:"messages"`
	Chunks   int `json:"chunks"`
	Items    int `json:"items"`
	// LogBegins is when the oldest message that the log still has was queued.
	LogBegins time.Time `json:"log_begins"`
	// MissingChunks is how many chunks the data store did not have, and Saved how many records were
	// saved of them. NotSaved counts the verdicts on their other items by code.
	MissingChunks int            `json:"missing_chunks"`
	Saved         int            `json:"saved"`
	NotSaved      map[string]int `json:"not_saved,omitempty"`
	// Keys is how many of their Idempotency-Keys the data store did not have.
	Keys int `json:"keys"`
	// Failed says what could not be recovered, and why.
	Failed []string `json:"failed,omitempty"`
}

// Recover reads the log and has the data store save what it does not have: what was saved before and got
// lost when the data store was restored from a backup. Batches are saved in the order of the log, which
// may differ from the order in which they were saved at first: of two batches with the same key, the
// first in the log is saved.
//
// Recover can run beside fronts and workers, and be repeated, as saving is idempotent. If it returns an
// error, it has not read the whole log.
func Recover(ctx context.Context, nc *nats.Conn, opts RecoverOptions) (*Recovered, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	stream, err := js.Stream(ctx, queue.StreamName)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", queue.StreamName, err)
	}
	state := stream.CachedInfo().State
	r := &recovery{opts: opts, recovered: Recovered{LogBegins: state.FirstTime, NotSaved: make(map[string]int)}}
	if state.Msgs == 0 {
		return &r.recovered, nil
	}
	config := jetstream.OrderedConsumerConfig{}
	if !opts.Since.IsZero() {
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &opts.Since
	}
	consumer, err := stream.OrderedConsumer(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	if consumer.CachedInfo().NumPending == 0 {
		return &r.recovered, nil
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(prefetchMessages, prefetchBytes))
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return &r.recovered, fmt.Errorf("read the log: %w", err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return &r.recovered, fmt.Errorf("read the log: %w", err)
		}
		// Leave what is queued from now on to the workers.
		last := meta.Sequence.Stream >= state.LastSeq || meta.NumPending == 0
		r.read(msg)
		if r.size.exceeds(gatheringBound) || last {
			if err := r.save(ctx); err != nil {
				return &r.recovered, err
			}
			if opts.Progress != nil {
				opts.Progress(uint64(r.recovered.Messages), uint64(r.recovered.Messages)+meta.NumPending)
			}
		}
		if last {
			return &r.recovered, nil
		}
	}
}

// A recovery is the state of a Recover under way.
type recovery struct {
	opts      RecoverOptions
	recovered Recovered
	chunks    []*intake.Chunk // read, and not looked up yet
	size      size            // of chunks
}

func (r *recovery) read(msg jetstream.Msg) {
	r.recovered.Messages++
	chunks, _, err := queue.ReadMessage(msg.Data())
	if err != nil {
		r.fail("message %s cannot be read: %v", msg.Subject(), err)
		return
	}
	for _, chunk := range chunks {
		r.recovered.Chunks++
		r.recovered.Items += chunk.Len
		// A partner that was added after the backup is gone too, and another one may have its number.
		if name, want := r.opts.Partners[chunk.Partner], queue.PartnerOf(msg.Subject()); name != want {
			r.fail("batch %s, %d items, is of partner %s, number %d, which the data store does not have",
				chunk.Batch, chunk.Len, want, chunk.Partner)
			continue
		}
		r.chunks = append(r.chunks, chunk)
		r.size = size{r.size.items + chunk.Len, r.size.bytes + queue.MemoryOf(chunk)}
	}
}

func (r *recovery) fail(format string, args ...any) {
	r.recovered.Failed = append(r.recovered.Failed, fmt.Sprintf(format, args...))
}

// save saves those of the chunks that the data store does not have.
func (r *recovery) save(ctx context.Context) error {
	chunks := r.chunks
	r.chunks, r.size = nil, size{}
	if len(chunks) == 0 {
		return nil
	}
	ids := make([]uuid.UUID, len(chunks))
	for i, chunk := range chunks {
		ids[i] = chunk.Batch
	}
	type key struct {
		batch  uuid.UUID
		number int
	}
	finished := make(map[key]bool)
	var missing []*intake.Chunk
	try := func() error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		outcomes, err := r.opts.Store.Outcomes(ctx, ids)
		if err != nil {
			return err
		}
		for _, outcome := range outcomes {
			finished[key{outcome.Batch, outcome.Chunk}] = true
		}
		missing = nil
		for _, chunk := range chunks {
			if !finished[key{chunk.Batch, chunk.Number}] {
				missing = append(missing, chunk)
			}
		}
		if len(missing) == 0 {
			return nil
		}
		if err := r.reserve(ctx, missing); err != nil {
			return err
		}
		saved, err := r.opts.Store.Save(ctx, missing)
		if err == nil {
			r.count(missing, saved.Outcomes)
		}
		return err
	}
	const tries = 5
	for n := 1; ; n++ {
		err := try()
		if err == nil {
			return nil
		}
		if n == tries || !sleep.For(ctx, time.Second) {
			return errors.Join(fmt.Errorf("save what is missing: %w", err), ctx.Err())
		}
	}
}

// reserve reserves the keys of batches again. A repeat then finds neither an answer nor
// a request at work: it takes over, and gets the states that the batch has.
func (r *recovery) reserve(ctx context.Context, chunks []*intake.Chunk) error {
	for _, chunk := range chunks {
		if chunk.Holder == nil || chunk.Number > 0 {
			continue
		}
		reservation, err := r.opts.Store.Reserve(ctx, chunk.Partner, chunk.Holder.Key, chunk.Holder.BodyHash,
			chunk.Batch, 0)
		if err != nil {
			return err
		}
		if reservation.State == intake.ReservationFresh {
			r.recovered.Keys++
		}
	}
	return nil
}

func (r *recovery) count(chunks []*intake.Chunk, outcomes []intake.Outcome) {
	for i, outcome := range outcomes {
		if outcome.Withdrawn {
			continue
		}
		r.recovered.MissingChunks++
		r.recovered.Saved += chunks[i].Len - len(outcome.NotSaved)
		for _, v := range outcome.NotSaved {
			r.recovered.NotSaved[v.Code.String()]++
		}
	}
}
