package worker

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"intake/worker/queue"
)

// Headers of a dead letter. Its data is that of the message.
const (
	reasonHeader   = "Intake-Reason"
	subjectHeader  = "Intake-Subject"
	sequenceHeader = "Intake-Sequence"
)

// maxReason bounds the reason, in bytes, so that a letter fits into a message like the message it holds.
const maxReason = 256

// bury moves a message that cannot be read or saved to the dead letters. It stays in the queue until it is
// stored there.
func (w *Worker) bury(ctx context.Context, msg jetstream.Msg, delivery uint64, reason error) {
	letter := nats.NewMsg(queue.DeadSubjectPrefix + strings.TrimPrefix(msg.Subject(), queue.SubjectPrefix))
	letter.Data = msg.Data()
	letter.Header.Set(reasonHeader, strings.ToValidUTF8(reason.Error()[:min(len(reason.Error()), maxReason)], ""))
	letter.Header.Set(subjectHeader, msg.Subject())
	if meta, err := msg.Metadata(); err == nil {
		sequence := strconv.FormatUint(meta.Sequence.Stream, 10)
		letter.Header.Set(sequenceHeader, sequence)
		letter.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("%s-%d", sequence, meta.Timestamp.UnixNano()))
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if !w.isBuried(ctx, letter) {
		if _, err := w.js.PublishMsg(ctx, letter); err != nil {
			w.opts.Logger.Error("cannot move a message to the dead letters, trying again later",
				zap.String("subject", msg.Subject()), zap.NamedError("reason", reason), zap.Error(err))
			_ = msg.NakWithDelay(w.nakDelay(delivery))
			return
		}
		w.metrics.dead.Inc()
		w.opts.Logger.Error("moved a message to the dead letters, see intake dead list",
			zap.String("subject", msg.Subject()), zap.NamedError("reason", reason))
	}
	if err := msg.TermWithReason(letter.Header.Get(reasonHeader)); err != nil {
		w.opts.Logger.Debug("cannot remove a dead letter from the queue, it will be delivered again", zap.Error(err))
	}
}

// isBuried reports whether a letter is among the dead letters already: a worker has moved its message there
// and died before it could remove it from the queue.
func (w *Worker) isBuried(ctx context.Context, letter *nats.Msg) bool {
	stream, err := w.js.Stream(ctx, queue.DeadStreamName)
	if err != nil {
		return false
	}
	last, err := stream.GetLastMsgForSubject(ctx, letter.Subject)
	return err == nil && last.Header.Get(sequenceHeader) != "" &&
		last.Header.Get(jetstream.MsgIDHeader) == letter.Header.Get(jetstream.MsgIDHeader)
}
