package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"intake"
	"intake/worker/queue"
)

// A DeadLetter is a message that no worker could read or save.
type DeadLetter struct {
	// Sequence is the letter's number among the dead letters.
	Sequence uint64    `json:"sequence"`
	Time     time.Time `json:"time"` // when the message was moved there
	Partner  string    `json:"partner"`
	Batch    uuid.UUID `json:"batch"` // the first one, if the message holds several
	Reason   string    `json:"reason"`
	Bytes    int       `json:"bytes"`

	subject string // of the message when it was queued
	data    []byte
}

// ErrNoLetter is returned if there is no dead letter with a number.
var ErrNoLetter = errors.New("there is no dead letter with this number")

// DeadLetters are the messages that no worker could read or save. They are safe for concurrent use.
type DeadLetters struct {
	js     jetstream.JetStream
	stream jetstream.Stream // nil if there is none yet
}

// OpenDeadLetters returns the dead letters of a NATS.
func OpenDeadLetters(ctx context.Context, nc *nats.Conn) (*DeadLetters, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	stream, err := js.Stream(ctx, queue.DeadStreamName)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("stream %s: %w", queue.DeadStreamName, err)
	}
	return &DeadLetters{js, stream}, nil
}

// Each calls each with every letter, the oldest one first, until it returns an error.
func (d *DeadLetters) Each(ctx context.Context, each func(*DeadLetter) error) error {
	if d.stream == nil {
		return nil
	}
	state := d.stream.CachedInfo().State
	for n := state.FirstSeq; n <= state.LastSeq && state.Msgs > 0; n++ {
		letter, err := d.Get(ctx, n)
		if errors.Is(err, ErrNoLetter) {
			continue
		}
		if err == nil {
			err = each(letter)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Get returns the letter with a number, or [ErrNoLetter].
func (d *DeadLetters) Get(ctx context.Context, sequence uint64) (*DeadLetter, error) {
	if d.stream == nil || sequence == 0 {
		return nil, ErrNoLetter
	}
	msg, err := d.stream.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, ErrNoLetter
	}
	if err != nil {
		return nil, fmt.Errorf("read dead letter %d: %w", sequence, err)
	}
	letter := &DeadLetter{
		Sequence: sequence, Time: msg.Time, Reason: msg.Header.Get(reasonHeader), Bytes: len(msg.Data),
		subject: msg.Header.Get(subjectHeader), data: msg.Data,
	}
	letter.Partner = queue.PartnerOf(letter.subject)
	if parts := strings.Split(letter.subject, "."); len(parts) > 1 {
		letter.Batch, _ = uuid.Parse(parts[len(parts)-2])
	}
	return letter, nil
}

// Items returns the items as they were sent, as far as they can be read.
func (l *DeadLetter) Items() [][]byte { return queue.ReadItems(l.data) }

// Retry queues a letter's message again and deletes the letter. If the message still cannot be read or saved,
// it becomes another letter.
func (d *DeadLetters) Retry(ctx context.Context, letter *DeadLetter) error {
	msg := nats.NewMsg(letter.subject)
	msg.Data = letter.data
	// With an ID, a second try after a lost answer stores nothing new.
	msg.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("retry-%d-%d", letter.Sequence, letter.Time.UnixNano()))
	if _, err := d.js.PublishMsg(ctx, msg); err != nil {
		return fmt.Errorf("queue dead letter %d again: %w", letter.Sequence, err)
	}
	return d.forget(ctx, letter)
}

// A StatusKeeper keeps how chunks ended: the data store.
type StatusKeeper interface {
	// GiveUp makes the states of a partner's chunk final: none of its items will be saved. It does
	// nothing if they are final already.
	GiveUp(ctx context.Context, partner string, chunk *intake.Chunk) error
}

// Drop abandons a letter: none of its items will be saved, and their states say so. It reports whether the
// whole letter could be read. Items that could not be read are left without a state.
func (d *DeadLetters) Drop(ctx context.Context, letter *DeadLetter, keeper StatusKeeper) (all bool, err error) {
	chunks, all := queue.ReadChunks(letter.data, letter.subject)
	for _, chunk := range chunks {
		if err := keeper.GiveUp(ctx, letter.Partner, chunk); err != nil {
			return false, fmt.Errorf("give up dead letter %d: %w", letter.Sequence, err)
		}
	}
	return all, d.forget(ctx, letter)
}

func (d *DeadLetters) forget(ctx context.Context, letter *DeadLetter) error {
	if err := d.stream.DeleteMsg(ctx, letter.Sequence); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("drop dead letter %d: %w", letter.Sequence, err)
	}
	return nil
}
