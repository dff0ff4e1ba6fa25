package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"intake"
	"intake/internal/failpoint"
	"intake/internal/sleep"
)

// A submission is a batch on its way into the stream.
type submission struct {
	waiter   *waiter
	topic    string         // lane and partner, as in a subject
	base     uuid.UUID      // its ID, or uuid.Nil if the publisher is to choose one
	holder   *intake.Holder // nil without an Idempotency-Key
	chunks   []*intake.Chunk
	datas    [][]byte // the chunks, encoded
	bytes    int      // of datas
	raw      int      // bytes of the items as sent
	deadline time.Time
	done     chan error
}

// A group is what is published together, all or none: several small batches of a topic, or one batch.
type group []*submission

func (g group) chunks() (chunks []*intake.Chunk) {
	for _, s := range g {
		chunks = append(chunks, s.chunks...)
	}
	return chunks
}

func (g group) items() (items int) {
	for _, s := range g {
		for _, chunk := range s.chunks {
			items += chunk.Len
		}
	}
	return items
}

// deadline returns the earliest deadline.
func (g group) deadline() time.Time {
	first := g[0].deadline
	for _, s := range g[1:] {
		if s.deadline.Before(first) {
			first = s.deadline
		}
	}
	return first
}

// publishWaiting publishes one group after the other until the publish queue is closed. There is one
// publisher: while it commits, the next group gathers, and a second one would halve the groups.
func (q *Queue) publishWaiting(ctx context.Context) {
	for {
		g := q.waiting.nextGroup(min(maxGroupBytes, int(q.nc.MaxPayload())-MessageOverhead))
		if g == nil {
			return
		}
		err := q.publishGroup(ctx, g)
		for _, s := range g {
			s.done <- err
		}
	}
}

// publishGroup names the batches of a group and publishes them, as one message for several batches or
// as the messages of one batch.
func (q *Queue) publishGroup(ctx context.Context, g group) error {
	base := g[0].base
	if base == uuid.Nil {
		var err error
		if base, err = newBase(); err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	for i, s := range g {
		s.waiter.id = nameBatch(base, i)
		for _, chunk := range s.chunks {
			chunk.Batch = s.waiter.id
		}
		q.remember(s.waiter)
	}
	failpoint.Hit("queue/publishing")
	err := q.publishUntilKnown(ctx, g, q.messages(base, g))
	failpoint.Hit("queue/published")
	if err == nil {
		q.metrics.items.Observe(float64(g.items()))
	}
	return err
}

func (q *Queue) messages(base uuid.UUID, g group) (msgs []*nats.Msg) {
	if len(g) == 1 {
		for n, data := range g[0].datas {
			msgs = append(msgs, newMessage(base, g[0].topic, n, appendMessage(nil, base, q.reply, 0, g[0].holder,
				data)))
		}
		return msgs
	}
	data := appendMessage(make([]byte, 0, maxGroupBytes/4), base, q.reply, 0, nil, g[0].datas[0])
	for i, s := range g[1:] {
		data = appendChunks(data, i+1, nil, s.datas[0])
	}
	return []*nats.Msg{newMessage(base, g[0].topic, 0, data)}
}

func newMessage(base uuid.UUID, topic string, n int, data []byte) *nats.Msg {
	number := strconv.Itoa(n)
	msg := nats.NewMsg(SubjectPrefix + topic + "." + base.String() + "." + number)
	msg.Header.Set(jetstream.MsgIDHeader, base.String()+"-"+number)
	msg.Data = data
	return msg
}

// publishUntilKnown publishes the messages of a group until it is known whether they are stored. It
// tries again until the group's deadline: JetStream recognises a message that it has by its ID.
func (q *Queue) publishUntilKnown(ctx context.Context, g group, msgs []*nats.Msg) error {
	uncertain := false // a publish was neither confirmed nor refused
	for try := 0; ; try++ {
		err := q.commit(ctx, msgs, g.deadline())
		switch {
		case err == nil:
			return nil
		case isDuplicate(err):
			// Some of them are stored, if not all.
			return q.publishEach(ctx, g, msgs)
		case refused(err) && len(msgs) > 1 && !uncertain:
			// A server whose disk is full may have stored the first of them.
			return q.withdraw(ctx, g, len(msgs), err)
		case refused(err) && !uncertain:
			q.doubtStoring(err)
			q.metrics.failures.WithLabelValues("refused").Inc()
			return fmt.Errorf("%w: %w", unavailable(err), err)
		case !refused(err):
			uncertain = true
		}
		if !pause(ctx, try, g.deadline()) {
			return q.withdraw(ctx, g, len(msgs), err)
		}
	}
}

// publishEach publishes one by one those of a batch's messages that the stream lacks.
func (q *Queue) publishEach(ctx context.Context, g group, msgs []*nats.Msg) error {
	for _, msg := range msgs {
		for _, header := range []string{
			jetstreamext.BatchIDHeader, jetstreamext.BatchSeqHeader, jetstreamext.BatchCommitHeader,
		} {
			msg.Header.Del(header)
		}
		for try := 0; ; try++ {
			err := q.commit(ctx, []*nats.Msg{msg}, g.deadline())
			if err == nil {
				break
			}
			if !pause(ctx, try, g.deadline()) {
				return q.withdraw(ctx, g, len(msgs), err)
			}
		}
	}
	return nil
}

// pause waits before the next try, longer each time, and reports whether there was time for that
// before the deadline.
func pause(ctx context.Context, try int, deadline time.Time) bool {
	d := 50 * time.Millisecond << min(try, 4)
	return time.Until(deadline) >= d && sleep.For(ctx, d)
}

// commit publishes messages in one commit of the stream, all or none. They count as stored only if
// the connection was checked, and is still the same one afterwards.
func (q *Queue) commit(ctx context.Context, msgs []*nats.Msg, deadline time.Time) error {
	const maxTime = 2 * time.Second // of one try
	connection := q.checkedConnection()
	if connection == 0 {
		return errNotChecked
	}
	ctx, cancel := context.WithTimeout(ctx, min(maxTime, max(time.Until(deadline), 100*time.Millisecond)))
	defer cancel()
	began := time.Now()
	var err error
	if len(msgs) == 1 {
		_, err = q.js.PublishMsg(ctx, msgs[0], jetstream.WithRetryAttempts(0))
	} else {
		_, err = jetstreamext.PublishMsgBatch(ctx, q.js, msgs, jetstreamext.BatchFlowControl{})
	}
	q.metrics.publish.Observe(time.Since(began).Seconds())
	if err != nil {
		return err
	}
	if q.checkedConnection() != connection {
		return errors.New("NATS was reconnected while the batch was published")
	}
	q.storing.stored()
	q.metrics.published.Add(float64(len(msgs)))
	q.backlog.add(laneOf(msgs[0].Subject), len(msgs))
	for _, msg := range msgs {
		q.used.Add(int64(len(msg.Data))) // until watchRoom reads it again
	}
	return nil
}

// refused reports whether the error of a publish says that nothing was stored.
func refused(err error) bool {
	var answer jetstream.JetStreamError
	if errors.As(err, &answer) && answer.APIError() != nil {
		return answer.APIError().ErrorCode != errConflictingDuplicate
	}
	for _, unsent := range []error{
		errNotChecked, nats.ErrReconnectBufExceeded, nats.ErrNoResponders, jetstream.ErrNoStreamResponse,
		nats.ErrMaxPayload,
	} {
		if errors.Is(err, unsent) {
			return true
		}
	}
	return false
}

// errConflictingDuplicate is JetStream's code for a message that it is storing right now.
const errConflictingDuplicate jetstream.ErrorCode = 10158

// unavailable returns ErrFull if a publish was refused because the stream or its server cannot store
// any more, and ErrUnavailable otherwise.
func unavailable(cause error) error {
	const noResources, noStorage, storeFailed jetstream.ErrorCode = 10023, 10047, 10077
	if isCode(cause, noResources, noStorage, storeFailed) {
		return ErrFull
	}
	return ErrUnavailable
}

// isDuplicate reports whether messages were refused together because at least one of them is stored.
func isDuplicate(err error) bool {
	return errors.Is(err, jetstreamext.ErrBatchPublishDuplicateMsgID)
}

// withdraw ends a publish whose result is unknown: it makes sure in the ledger that the group is never
// saved, unless it is saved already. Only then may a client be asked to send it again; otherwise the
// repeat would be answered Duplicate, of a batch that was refused.
func (q *Queue) withdraw(ctx context.Context, g group, messages int, cause error) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	q.doubtStoring(cause)
	ok, err := q.opts.Ledger.Withdraw(ctx, g.chunks(), g[0].holder)
	switch {
	case err != nil:
		q.metrics.failures.WithLabelValues("uncertain").Inc()
		return fmt.Errorf("%w: publish: %w; withdraw it: %w", ErrUncertain, cause, err)
	case ok:
		q.metrics.failures.WithLabelValues("withdrawn").Inc()
		return fmt.Errorf("%w: %w", unavailable(cause), cause)
	case messages > 1: // one is finished, others may not even be queued
		q.metrics.failures.WithLabelValues("uncertain").Inc()
		return fmt.Errorf("%w: %w", ErrUncertain, cause)
	}
	return nil // it is saved
}
