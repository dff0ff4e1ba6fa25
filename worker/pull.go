package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"intake/internal/sleep"
	"intake/worker/queue"
)

// Bounds of a pull from the waiting lane. What comes of one is held while it waits for
// room, and there is no other pull before.
const (
	prefetchMessages = 2_000
	prefetchBytes    = 8 << 20 // or one message, if that is larger
	// pullTime bounds the wait for a message. A worker that stops waits for the end
	// of its pull, or what is on its way would be delivered only after the ack wait.
	pullTime = time.Second
)

// pullWaiting moves messages from the waiting lane to the backlog until ctx ends, or the
// consumer is gone.
func (w *Worker) pullWaiting(ctx context.Context, consumer queue.LaneConsumer) error {
	maxBytes := max(prefetchBytes, int(w.nc.MaxPayload())+queue.MessageOverhead)
	for ctx.Err() == nil {
		batch, err := consumer.Fetch(prefetchMessages, jetstream.FetchMaxBytes(maxBytes), jetstream.FetchMaxWait(pullTime))
		if err == nil {
			for h := range w.hold(consumer.Lane, batch, prefetchMessages) {
				w.read(ctx, h)
			}
			err = batch.Error()
		}
		if err := w.afterPull(ctx, consumer.Lane, err); err != nil {
			return err
		}
	}
	return nil
}

// pullLater moves messages from a later lane to the backlog until ctx ends, or the
// consumer is gone. It asks for a message only when there is one, and then only when
// there is room for it: pulls that wait in all lanes could all be answered at once.
func (w *Worker) pullLater(ctx context.Context, consumer queue.LaneConsumer) error {
	for ctx.Err() == nil {
		err := w.awaitMessage(ctx, consumer)
		for more := true; more && err == nil && w.backlog.reserve(consumer.Lane); {
			more, err = w.pullOne(ctx, consumer)
			w.backlog.unreserve()
		}
		if err := w.afterPull(ctx, consumer.Lane, err); err != nil {
			return err
		}
	}
	return nil
}

// awaitMessage waits for about a minute until there is a message in a lane, and leaves it
// there: JetStream ends a pull, with a status, whose bound the next message exceeds.
func (w *Worker) awaitMessage(ctx context.Context, consumer jetstream.Consumer) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	batch, err := consumer.Fetch(1, jetstream.FetchMaxBytes(1), jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(15*time.Second))
	if err != nil {
		return err
	}
	for range batch.Messages() {
	}
	return batch.Error()
}

// pullOne moves a message to the backlog if there is one in the lane.
func (w *Worker) pullOne(ctx context.Context, consumer queue.LaneConsumer) (pulled bool, err error) {
	batch, err := consumer.FetchNoWait(1)
	if err != nil {
		return false, err
	}
	for h := range w.hold(consumer.Lane, batch, 1) {
		w.read(ctx, h)
		pulled = true
	}
	return pulled, batch.Error()
}

// hold has the backlog hold the messages of a batch, of which there are at most so many,
// as they come.
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

// afterPull returns an error if it is of no use to pull again, because the consumer is
// gone. After other errors it waits a little: the connection is down or slow, or the
// consumer moves to another server.
func (w *Worker) afterPull(ctx context.Context, lane string, err error) error {
	if err == nil || ctx.Err() != nil {
		return nil
	}
	try, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := w.js.Consumer(try, queue.StreamName, queue.ConsumerName(lane)); isGone(err) {
		return fmt.Errorf("pull from consumer %s: %w", queue.ConsumerName(lane), err)
	}
	w.opts.Logger.Debug("a pull failed, pulling again", zap.String("lane", lane), zap.Error(err))
	sleep.For(ctx, 250*time.Millisecond)
	return nil
}

func isGone(err error) bool {
	return errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound)
}

// read reads a message and adds it to the backlog, or puts it where it belongs if it
// can't be read.
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
		w.opts.Logger.Error("a newer version has queued a message, leaving it to newer workers", zap.String("subject", h.msg.Subject()))
		_ = h.msg.NakWithDelay(w.nakDelay(h.delivery))
		return
	}
	w.bury(ctx, h.msg, h.delivery, err)
}
