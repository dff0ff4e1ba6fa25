package worker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"intake"
	"intake/internal/failpoint"
	"intake/worker/queue"
)

// settle sends the outcomes of what is committed to the fronts, acknowledges it, and has its keys marked as
// seen. Whatever of this is lost, redelivery or the ledger makes up for.
func (w *Worker) settle(ctx context.Context, gathering []*held, saved intake.Saved) {
	if w.committed != nil {
		w.committed()
	}
	w.sendOutcomes(gathering, saved.Outcomes)
	failpoint.Hit("worker/told")
	outcomes := saved.Outcomes
	for _, h := range gathering {
		if !slices.ContainsFunc(outcomes[:len(h.chunks)], func(o intake.Outcome) bool { return !o.Withdrawn }) {
			w.deleteWithdrawn(ctx, h.msg)
		}
		if err := h.msg.Ack(); err != nil {
			w.opts.Logger.Debug("cannot acknowledge a message, it will be delivered again", zap.Error(err))
		}
		outcomes = outcomes[len(h.chunks):]
	}
	failpoint.Hit("worker/acknowledged")
	w.count(gathering, saved.Outcomes)
	if w.opts.Marker == nil || len(saved.Keys) == 0 {
		return
	}
	select {
	case w.marks <- saved:
	default:
		w.metrics.marks.WithLabelValues("skipped").Inc()
	}
}

// deleteWithdrawn deletes a withdrawn message from the log. Nothing of it may ever be saved, not even by
// Recover after the data store has lost the withdrawal.
func (w *Worker) deleteWithdrawn(ctx context.Context, msg jetstream.Msg) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	meta, err := msg.Metadata()
	if err == nil {
		var stream jetstream.Stream
		if stream, err = w.js.Stream(ctx, queue.StreamName); err == nil {
			err = stream.DeleteMsg(ctx, meta.Sequence.Stream)
		}
	}
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		w.opts.Logger.Warn("cannot delete a withdrawn message from the log",
			zap.String("subject", msg.Subject()), zap.Error(err))
	}
}

// count counts the items of a gathering by their codes. The front has counted those that it rejected.
func (w *Worker) count(gathering []*held, outcomes []intake.Outcome) {
	saved := 0
	for _, h := range gathering {
		for i, chunk := range h.chunks {
			if outcomes[i].Withdrawn {
				continue
			}
			notSaved := len(outcomes[i].NotSaved) - len(chunk.Rejected)
			saved += len(chunk.Clients) - notSaved
			if notSaved == 0 {
				continue
			}
			for _, v := range outcomes[i].NotSaved {
				switch v.Code {
				case intake.CodeDuplicateOfSaved, intake.CodeRefused:
					w.metrics.items.WithLabelValues(v.Code.String()).Inc()
				}
			}
		}
		outcomes = outcomes[len(h.chunks):]
	}
	w.metrics.items.WithLabelValues(intake.CodeSaved.String()).Add(float64(saved))
}

// sendOutcomes sends each front its outcomes, in as few messages as possible.
func (w *Worker) sendOutcomes(gathering []*held, outcomes []intake.Outcome) {
	const large = 256 << 10
	messages := make(map[string][]byte)
	send := func(reply string) {
		if err := w.nc.Publish(reply, messages[reply]); err != nil {
			w.opts.Logger.Debug("cannot send outcomes, the front will read them from the data store", zap.Error(err))
		}
		delete(messages, reply)
	}
	for _, h := range gathering {
		own := outcomes[:len(h.chunks)]
		outcomes = outcomes[len(h.chunks):]
		if h.reply == "" {
			continue
		}
		for i, chunk := range h.chunks {
			if own[i].Withdrawn {
				continue // the front has refused it
			}
			messages[h.reply] = queue.AppendOutcome(messages[h.reply], own[i], chunk.Rejected)
			if len(messages[h.reply]) > large {
				send(h.reply)
			}
		}
	}
	for reply := range messages {
		send(reply)
	}
}

// mark marks what was committed as seen, until w.marks is closed. At shutdown it waits for an unavailable
// seen set only once.
func (w *Worker) mark(ctx context.Context) {
	unavailable := false
	for saved := range w.marks {
		if unavailable && w.backlog.isClosed() {
			w.metrics.marks.WithLabelValues("skipped").Inc()
			continue
		}
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		outcome := "marked"
		err := w.opts.Marker.Mark(try, saved.Timeline, saved.Keys)
		if unavailable = err != nil; unavailable {
			outcome = "failed"
		}
		w.metrics.marks.WithLabelValues(outcome).Inc()
		cancel()
	}
}
