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
)

// Headers of a dead letter, beside its text.
const (
	reasonHeader   = "Intake-Reason"
	subjectHeader  = "Intake-Subject"
	sequenceHeader = "Intake-Sequence"
)

// bury moves a message that can never be saved to the dead letters. It leaves
// the queue only when it has arrived there.
func (w *Worker) bury(ctx context.Context, msg jetstream.Msg, delivery uint64, reason error) {
	letter := nats.NewMsg(deadSubjectPrefix + strings.TrimPrefix(msg.Subject(), subjectPrefix))
	letter.Data = msg.Data()
	letter.Header.Set(reasonHeader, reason.Error())
	letter.Header.Set(subjectHeader, msg.Subject())
	if meta, err := msg.Metadata(); err == nil {
		sequence := strconv.FormatUint(meta.Sequence.Stream, 10)
		letter.Header.Set(sequenceHeader, sequence)
		letter.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("%s-%d", sequence, meta.Timestamp.UnixNano()))
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := w.js.PublishMsg(ctx, letter); err != nil {
		w.opts.Logger.Error("cannot move an unreadable message to the dead letters, trying again later",
			zap.String("subject", msg.Subject()), zap.Error(err))
		_ = msg.NakWithDelay(nakDelay(delivery))
		return
	}
	w.metrics.dead.Inc()
	w.opts.Logger.Error("moved an unreadable message to the dead letters",
		zap.String("subject", msg.Subject()), zap.NamedError("reason", reason))
	if err := msg.TermWithReason(reason.Error()); err != nil {
		w.opts.Logger.Debug("cannot end an unreadable message, it will be delivered again", zap.Error(err))
	}
}
