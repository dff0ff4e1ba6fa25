// Package sender sends batches to an Intake and tells what became of them.
package sender

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	"golang.org/x/sync/errgroup"

	"intake"
)

// Options of a Sender. URL, ClientID and ClientSecret are required.
type Options struct {
	URL          string // of the front, without a path
	ClientID     string
	ClientSecret string
	TokenURL     string // where tokens are given out; the front's /oauth/token when empty
	// Concurrency is how many batches are under way at once; 4 when zero.
	Concurrency int
	// RetryFor is how long a batch is sent again while the front can't take it
	// or can't be reached; 2 minutes when zero.
	RetryFor time.Duration
	// DryRun has batches judged, and nothing of them saved.
	DryRun bool
	// Check compares the items with what is saved, and sends nothing to be saved.
	Check bool
}

// A Sender sends batches. Several goroutines may use it at once.
type Sender struct {
	opts   Options
	client *http.Client
}

// New makes a Sender, which gets itself a token when it first needs one.
func New(opts Options) (*Sender, error) {
	switch {
	case !strings.HasPrefix(opts.URL, "http://") && !strings.HasPrefix(opts.URL, "https://"):
		return nil, fmt.Errorf("%q is no URL of a front: it begins with http:// or https://", opts.URL)
	case opts.ClientID == "" || opts.ClientSecret == "":
		return nil, errors.New("the client id or the client secret is missing")
	}
	opts.URL = strings.TrimRight(opts.URL, "/")
	if opts.TokenURL == "" {
		opts.TokenURL = opts.URL + "/oauth/token"
	}
	if opts.Concurrency <= 0 {
		opts.Concurrency = 4
	}
	if opts.RetryFor <= 0 {
		opts.RetryFor = 2 * time.Minute
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = opts.Concurrency
	plain := &http.Client{Transport: transport, Timeout: time.Minute}
	credentials := clientcredentials.Config{
		ClientID: opts.ClientID, ClientSecret: opts.ClientSecret,
		TokenURL: opts.TokenURL, Scopes: []string{"clients:write", "clients:read"},
	}
	client := credentials.Client(context.WithValue(context.Background(), oauth2.HTTPClient, plain))
	client.Timeout = time.Minute
	return &Sender{opts: opts, client: client}, nil
}

// Close closes idle connections.
func (s *Sender) Close() { s.client.CloseIdleConnections() }

// Send sends all batches of the files, several at once, and reports each. It
// returns what kept it from sending a batch, if anything did.
func (s *Sender) Send(ctx context.Context, files []string, report *Report) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(s.opts.Concurrency)
	var readErr error
	for _, file := range files {
		err := Batches(file, report.read, func(batch Batch) bool {
			group.Go(func() error { return s.sendBatch(ctx, batch, report) })
			return ctx.Err() == nil
		})
		// A file that ends in rubbish keeps no other from being sent.
		readErr = errors.Join(readErr, err)
	}
	return errors.Join(group.Wait(), readErr)
}

// sendBatch sends a batch and reports its end. It returns an error only when
// there is no point in sending others.
func (s *Sender) sendBatch(ctx context.Context, batch Batch, report *Report) error {
	var err error
	if s.opts.Check {
		var records *Records
		if records, err = s.check(ctx, batch.Items); err == nil {
			return report.addRecords(batch, records)
		}
	} else {
		var answer *Answer
		if answer, err = s.Post(ctx, batch.Items); err == nil {
			return report.add(batch, answer)
		}
	}
	var refusal *Refusal
	if errors.As(err, &refusal) && !refusal.isGeneral() {
		report.refused(batch, err)
		return nil
	}
	return fmt.Errorf("%s: batch %d: %w", batch.File, batch.Number, err)
}

// An Answer is what the front said to a batch.
type Answer struct {
	Status string `json:"status"`
	Result []struct {
		Status struct {
			State  intake.State `json:"state"`
			Code   intake.Code  `json:"code"`
			Reason string       `json:"validation_errors"`
		} `json:"status"`
	} `json:"result"`
}

// A Refusal is the answer to a batch that was refused as a whole.
type Refusal struct {
	Status     int
	Title      string `json:"title"`
	Detail     string `json:"detail"`
	retryAfter time.Duration
}

func (r *Refusal) Error() string {
	text := r.Title
	if text == "" {
		text = http.StatusText(r.Status)
	}
	if r.Detail != "" {
		text += ": " + r.Detail
	}
	return fmt.Sprintf("%d %s", r.Status, text)
}

// isGeneral tells of refusals that every other batch would meet as well.
func (r *Refusal) isGeneral() bool {
	switch r.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed:
		return true
	}
	return false
}

// errPending says that an answer was not final.
var errPending = errors.New("items are queued but not saved yet")

// Post sends one batch until all of its items are final. A batch of which the
// front says that it isn't is sent again: what was saved meanwhile comes back
// as a duplicate of the same data.
func (s *Sender) Post(ctx context.Context, items []byte) (*Answer, error) {
	answer := new(Answer)
	return answer, s.until(ctx, func() error { return s.post(ctx, "/api/v1/clients", items, answer) })
}

// Records are what the front said of the items that it was asked to compare with
// what is saved.
type Records struct {
	Result []struct {
		Record string `json:"record"` // "saved_same" if the item is saved
		Detail string `json:"detail"`
		ID     string `json:"partner_client_id"`
	} `json:"result"`
}

// check compares a batch's items with what is saved.
func (s *Sender) check(ctx context.Context, items []byte) (*Records, error) {
	records := new(Records)
	return records, s.until(ctx, func() error { return s.post(ctx, "/api/v1/clients/reconcile", items, records) })
}

// until tries until it succeeds, as long as there is hope.
func (s *Sender) until(ctx context.Context, try func() error) error {
	patience := backoff.NewExponentialBackOff()
	patience.InitialInterval = 200 * time.Millisecond
	patience.MaxInterval = 5 * time.Second
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		none, err := struct{}{}, try()
		var refusal *Refusal
		var credentials *oauth2.RetrieveError
		switch {
		case errors.As(err, &refusal):
			switch {
			case refusal.Status != http.StatusTooManyRequests && refusal.Status != http.StatusServiceUnavailable:
				return none, backoff.Permanent(err)
			case refusal.retryAfter > 0:
				return none, fmt.Errorf("%w; %w", err, &backoff.RetryAfterError{Duration: refusal.retryAfter})
			}
		case errors.As(err, &credentials) && credentials.Response.StatusCode < http.StatusInternalServerError &&
			credentials.Response.StatusCode != http.StatusTooManyRequests:
			return none, backoff.Permanent(fmt.Errorf("get a token: %s", strings.TrimSpace(credentials.ErrorCode+" "+credentials.ErrorDescription)))
		}
		return none, err
	}, backoff.WithBackOff(patience), backoff.WithMaxElapsedTime(s.opts.RetryFor))
	return err
}

// prefer is how batches are to be answered.
func (s *Sender) prefer() string {
	if s.opts.DryRun {
		return "handling=validate, return=minimal"
	}
	return "wait=30, return=minimal"
}

func (s *Sender) post(ctx context.Context, path string, items []byte, answer any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.opts.URL+path, bytes.NewReader(items))
	if err != nil {
		return backoff.Permanent(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Prefer", s.prefer())
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		return nil
	case http.StatusAccepted:
		return errPending
	}
	return refusalOf(response)
}

func refusalOf(response *http.Response) *Refusal {
	refusal := &Refusal{}
	text, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	_ = json.Unmarshal(text, refusal) // a proxy's answer may be anything
	refusal.Status = response.StatusCode
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil {
		refusal.retryAfter = min(time.Duration(seconds)*time.Second, 30*time.Second)
	}
	return refusal
}
