// Package sender sends files of batches to an Intake, retries what can't be
// taken now, and reports the state of each item. It reads the files
// (input.go), sends batches as requests of their own (sender.go) or over one
// connection (stream.go), and lists and counts the answers (report.go).
package sender

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"

	"intake/internal/client"
)

// Options of a [Sender]. URL, ClientID and ClientSecret are required.
type Options struct {
	URL          string // of the front, without a path
	ClientID     string
	ClientSecret string
	TokenURL     string // where tokens are issued; the default is the front's /oauth/token
	// Concurrency is how many batches are sent at the same time. The default is 4.
	Concurrency int
	// RetryFor is how long a batch is sent again while the front is down or
	// can't take it. The default is 2 minutes.
	RetryFor time.Duration
	// DryRun has the batches judged, and saves none of them.
	DryRun bool
	// Check compares the items with the saved ones, and saves nothing.
	Check bool
	// Retrying, if not nil, is called before each wait for another try, with the
	// reason and the length of the wait. It may be called concurrently.
	Retrying func(batch Batch, reason error, wait time.Duration)
}

// requestTimeout bounds a request, and the silence on a stream.
const requestTimeout = time.Minute

// A Sender sends batches. It is safe for concurrent use.
type Sender struct {
	opts   Options
	client *client.Client
}

// New returns a sender, which gets a token when it first needs one.
func New(opts Options) (*Sender, error) {
	if opts.Concurrency <= 0 {
		opts.Concurrency = 4
	}
	if opts.RetryFor <= 0 {
		opts.RetryFor = 2 * time.Minute
	}
	c, err := client.New(client.Options{
		URL: opts.URL, ClientID: opts.ClientID, ClientSecret: opts.ClientSecret, TokenURL: opts.TokenURL,
		MaxConns: opts.Concurrency, Timeout: requestTimeout,
	})
	if err != nil {
		return nil, err
	}
	return &Sender{opts: opts, client: c}, nil
}

// Close closes idle connections.
func (s *Sender) Close() { s.client.Close() }

// Send sends all batches of the files, several at the same time, and reports
// each. The error says why a batch could not be sent. After a file that can't be
// read to its end the others are still sent.
func (s *Sender) Send(ctx context.Context, files []string, report *Report) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(s.opts.Concurrency)
	readErr := eachBatch(groupCtx, files, report, func(batch Batch) bool {
		group.Go(func() error { return s.sendBatch(groupCtx, batch, report) })
		return groupCtx.Err() == nil
	})
	return errors.Join(group.Wait(), readErr)
}

// eachBatch calls do with the batches of all files, numbered in their order,
// until it returns false. It joins the errors of the files.
func eachBatch(ctx context.Context, files []string, report *Report, do func(Batch) bool) error {
	var failed error
	order := 0
	for _, file := range files {
		if ctx.Err() != nil {
			break
		}
		failed = errors.Join(failed, Batches(file, report.read, func(batch Batch) bool {
			batch.order = order
			order++
			return do(batch)
		}))
	}
	return failed
}

// sendBatch sends a batch and reports its end. It returns an error only when
// there is no point in sending others.
func (s *Sender) sendBatch(ctx context.Context, batch Batch, report *Report) error {
	var err error
	if s.opts.Check {
		var records *client.Records
		if records, err = s.check(ctx, batch); err == nil {
			return report.addRecords(batch, records)
		}
	} else {
		var answer *client.Answer
		if answer, err = s.create(ctx, batch); err == nil {
			return report.add(batch, answer)
		}
	}
	var problem *client.Problem
	if errors.As(err, &problem) && !problem.Temporary() && !isGeneral(err) {
		return report.refused(batch, err)
	}
	return fmt.Errorf("%s: batch %d: %w", batch.File, batch.Number, err)
}

// isGeneral reports whether err is a refusal for good that every other batch
// would meet as well.
func isGeneral(err error) bool {
	var token *client.TokenError
	if errors.As(err, &token) {
		return !client.IsTemporary(err)
	}
	var problem *client.Problem
	if !errors.As(err, &problem) {
		return false
	}
	switch problem.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed:
		return true
	}
	return problem.Status < http.StatusBadRequest // a redirect
}

// errPending reports that an answer was not final.
var errPending = errors.New("items are queued but not saved yet")

// Post sends one batch until all of its items are final. What was saved by an
// earlier try comes back as a Duplicate with the same data.
func (s *Sender) Post(ctx context.Context, items []byte) (*client.Answer, error) {
	return s.create(ctx, Batch{Items: items})
}

func (s *Sender) create(ctx context.Context, batch Batch) (answer *client.Answer, err error) {
	err = s.retry(ctx, batch, func() (err error) {
		answer, err = s.client.Create(ctx, batch.Items, client.BatchOptions{Prefer: s.prefer()})
		if err == nil && !answer.IsFinal() {
			err = errPending
		}
		return err
	})
	return answer, err
}

// check compares a batch's items with the saved ones.
func (s *Sender) check(ctx context.Context, batch Batch) (records *client.Records, err error) {
	err = s.retry(ctx, batch, func() (err error) {
		records, err = s.client.Reconcile(ctx, batch.Items)
		return err
	})
	return records, err
}

// retry calls try until it succeeds, fails for good, or RetryFor is over. The
// error says what the last try failed with.
func (s *Sender) retry(ctx context.Context, batch Batch, try func() error) error {
	waits := backoff.NewExponentialBackOff()
	waits.InitialInterval = 200 * time.Millisecond
	waits.MaxInterval = 5 * time.Second
	began := time.Now()
	var last error
	notify := func(_ error, wait time.Duration) {
		if s.opts.Retrying != nil {
			s.opts.Retrying(batch, last, wait)
		}
	}
	_, err := backoff.Retry(ctx, func() (none struct{}, err error) {
		if err = try(); err != nil && (ctx.Err() == nil || last == nil) {
			last = err // a try that was interrupted says nothing new
		}
		var problem *client.Problem
		switch {
		case err == nil || ctx.Err() != nil:
			return none, err
		case !client.IsTemporary(err):
			return none, backoff.Permanent(err)
		case errors.As(err, &problem) && problem.RetryAfter > 0:
			return none, &backoff.RetryAfterError{Duration: problem.RetryAfter}
		}
		return none, err
	}, backoff.WithBackOff(waits), backoff.WithMaxElapsedTime(s.opts.RetryFor), backoff.WithNotify(notify))
	var problem *client.Problem
	elapsed := time.Since(began).Round(100 * time.Millisecond)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.Is(last, context.Canceled):
		return last
	case ctx.Err() != nil:
		return fmt.Errorf("%w; the last try failed with: %w", ctx.Err(), last)
	case !client.IsTemporary(last):
		return last
	case errors.As(last, &problem) && elapsed+problem.RetryAfter > s.opts.RetryFor:
		return fmt.Errorf("gave up after %s, as a batch is retried for no longer than %s: %w", elapsed, s.opts.RetryFor,
			last)
	}
	return fmt.Errorf("gave up after %s of retries: %w", elapsed, last)
}

// prefer is how batches are to be treated.
func (s *Sender) prefer() string {
	if s.opts.DryRun {
		return "handling=validate, return=minimal"
	}
	return "wait=30, return=minimal"
}
