package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"intake/internal/safety"
	"intake/internal/sleep"
	"intake/worker/queue"
)

// Bounds of a fetch from the waiting lane. Its messages are held until there is room for them in the
// backlog, and only then comes the next fetch.
const (
	prefetchMessages = 2_000
	prefetchBytes    = 8 << 20 // or one message, if that is larger
	// fetchTime bounds the wait for a message. A worker that stops waits for the end of its fetch:
	// messages on their way would otherwise be delivered again only after the ack wait.
	fetchTime = time.Second
)

// fetch moves messages from the stream to the backlog until ctx ends. It returns [safety.Breaches] if NATS
// cannot set up the stream as required.
func (w *Worker) fetch(ctx context.Context) error {
	said := ""
	for queue.AwaitConnection(ctx, w.nc) {
		if err := w.fetchUntilError(ctx); err != nil && ctx.Err() == nil {
			if breaches, _ := safety.Find(err); len(breaches) > 0 {
				return breaches
			}
			if text := err.Error(); text != said && w.nc.IsConnected() { // once
				said = text
				w.opts.Logger.Warn("cannot fetch from the queue, trying again", zap.Error(err))
			}
			sleep.For(ctx, 500*time.Millisecond)
		}
	}
	return nil
}

// fetchUntilError sets up the stream and its consumers, and fetches from all of them.
func (w *Worker) fetchUntilError(ctx context.Context) error {
	try, cancel := context.WithTimeout(ctx, 15*time.Second)
	consumers, err := queue.SetUp(try, w.js, w.opts.Stream, w.opts.AckWait)
	cancel()
	if err != nil {
		return err
	}
	fetches, ctx := errgroup.WithContext(ctx)
	for _, consumer := range consumers {
		fetch := w.fetchLater
		if consumer.Lane == queue.WaitingLane {
			fetch = w.fetchWaiting
		}
		fetches.Go(func() error { return fetch(ctx, consumer) })
	}
	return fetches.Wait()
}

// fetchWaiting moves messages from the waiting lane to the backlog until ctx ends or the consumer is gone.
func (w *Worker) fetchWaiting(ctx context.Context, consumer queue.LaneConsumer) error {
	maxBytes := max(prefetchBytes, int(w.nc.MaxPayload())+queue.MessageOverhead)
	for ctx.Err() == nil {
		batch, err := consumer.Fetch(prefetchMessages, jetstream.FetchMaxBytes(maxBytes),
			jetstream.FetchMaxWait(fetchTime))
		if err == nil {
			for h := range w.hold(consumer.Lane, batch, prefetchMessages) {
				w.read(ctx, h)
			}
			err = batch.Error()
		}
		if err := w.afterFetch(ctx, consumer.Lane, err); err != nil {
			return err
		}
	}
	return nil
}

// fetchLater moves messages from a later lane to the backlog until ctx ends or the consumer is gone. It
// fetches a message only when there is one, and there is room for it: fetches that wait in all lanes
// could all be answered at the same time.
func (w *Worker) fetchLater(ctx context.Context, consumer queue.LaneConsumer) error {
	for ctx.Err() == nil {
		err := w.awaitMessage(ctx, consumer)
		for more := true; more && err == nil && w.backlog.reserve(consumer.Lane); {
			more, err = w.fetchOne(ctx, consumer)
			w.backlog.unreserve()
		}
		if err := w.afterFetch(ctx, consumer.Lane, err); err != nil {
			return err
		}
	}
	return nil
}

// awaitMessage waits for up to a minute until there is a message in a lane, and leaves it there: JetStream
// ends a fetch with a status when the next message exceeds its bound in bytes.
func (w *Worker) awaitMessage(ctx context.Context, consumer jetstream.Consumer) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	batch, err := consumer.Fetch(1,
		jetstream.FetchMaxBytes(1), jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(15*time.Second))
	if err != nil {
		return err
	}
	for range batch.Messages() {
	}
	return batch.Error()
}

// fetchOne moves a message to the backlog if there is one in the lane.
func (w *Worker) fetchOne(ctx context.Context, consumer queue.LaneConsumer) (fetched bool, err error) {
	batch, err := consumer.FetchNoWait(1)
	if err != nil {
		return false, err
	}
	for h := range w.hold(consumer.Lane, batch, 1) {
		w.read(ctx, h)
		fetched = true
	}
	return fetched, batch.Error()
}

// hold makes the backlog hold the messages of a batch, most of them at most, as they arrive.
func (w *Worker) hold(lane string, batch jetstream.MessageBatch, most int) <-chan *held {
	arrived := make(chan *held, most)
	go func() {
		defer close(arrived)
		for msg := range batch.Messages() {
			h := &held{msg: msg, lane: lane, delivery: 1}
			if meta, err := msg.Metadata(); err == nil {
				h.delivery = meta.NumDelivered
			}
			w.backlog.hold(h)
			arrived <- h
		}
	}()
	return arrived
}

// afterFetch returns an error if fetching again is of no use because the consumer is gone. After other
// errors it pauses: the connection is down or slow, or the consumer is moving to another server.
func (w *Worker) afterFetch(ctx context.Context, lane string, err error) error {
	if err == nil || ctx.Err() != nil {
		return nil
	}
	try, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := w.js.Consumer(try, queue.StreamName, queue.ConsumerName(lane)); isGone(err) {
		return fmt.Errorf("fetch from consumer %s: %w", queue.ConsumerName(lane), err)
	}
	w.opts.Logger.Debug("a fetch failed, trying again", zap.String("lane", lane), zap.Error(err))
	sleep.For(ctx, 250*time.Millisecond)
	return nil
}

// isGone reports whether the stream or the consumer does not exist.
func isGone(err error) bool {
	return errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound)
}

// read decodes a message and adds it to the backlog. A message that cannot be read is left to newer workers
// or becomes a dead letter.
func (w *Worker) read(ctx context.Context, h *held) {
	if h.delivery > 1 {
		w.metrics.redelivered.Inc()
	}
	chunks, reply, err := queue.ReadMessage(h.msg.Data())
	if err == nil {
		for _, chunk := range chunks {
			chunk.PartnerName = queue.PartnerOf(h.msg.Subject())
		}
		w.backlog.fill(h, chunks, reply)
		w.backlog.add(h)
		return
	}
	defer w.backlog.release([]*held{h})
	if errors.Is(err, queue.ErrNewer) && !w.isHopeless(h.msg) {
		w.opts.Logger.Error("a newer version has queued a message, leaving it to newer workers",
			zap.String("subject", h.msg.Subject()))
		_ = h.msg.NakWithDelay(w.nakDelay(h.delivery))
		return
	}
	w.bury(ctx, h.msg, h.delivery, err)
}
