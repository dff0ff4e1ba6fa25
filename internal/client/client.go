// Package client is a client of the API, as a partner uses it: it gets access
// tokens, sends batches, one by one or as a stream, and asks for their
// status. The command intake and cmd/prove send with it.
//
// It does not retry. [Problem.Temporary] reports which refusals are worth
// another try, and a batch may be sent again at any time: what was saved
// meanwhile comes back as a Duplicate with the same data.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"intake"
)

// Options of a [Client]. URL is required, and either ClientID and ClientSecret
// or Tokens.
type Options struct {
	// URL is the front's, without a path, as in https://intake.example.com.
	URL string
	// ClientID and ClientSecret are the partner's OAuth2 client credentials.
	ClientID, ClientSecret string
	// TokenURL is where tokens are issued. The default is URL's /oauth/token.
	TokenURL string
	// Tokens replaces the credentials.
	Tokens TokenSource
	// Transport sends the requests. The default is a copy of
	// [http.DefaultTransport] with as many idle connections as MaxConns.
	Transport http.RoundTripper
	// MaxConns is how many idle connections are kept. The default is 4.
	MaxConns int
	// Timeout bounds a request with its answer. The default is 1 minute. It
	// does not apply to streams.
	Timeout time.Duration
}

// A Client is a partner's client of one front. It is safe for concurrent use.
type Client struct {
	url     string
	timeout time.Duration
	tokens  TokenSource
	http    *http.Client
}

// New returns a client, which gets a token when it first needs one.
func New(opts Options) (*Client, error) {
	if !strings.HasPrefix(opts.URL, "http://") && !strings.HasPrefix(opts.URL, "https://") {
		return nil, fmt.Errorf("%q is no URL of a front: it begins with http:// or https://", opts.URL)
	}
	if opts.Tokens == nil && (opts.ClientID == "" || opts.ClientSecret == "") {
		return nil, errors.New("the client id or the client secret is missing")
	}
	if opts.MaxConns <= 0 {
		opts.MaxConns = 4
	}
	if opts.Timeout <= 0 {
		opts.Timeout = time.Minute
	}
	if opts.Transport == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost = opts.MaxConns
		opts.Transport = transport
	}
	c := &Client{
		url: strings.TrimRight(opts.URL, "/"), timeout: opts.Timeout, tokens: opts.Tokens,
		// A redirect is reported as what it is: followed, a POST may become a GET.
		http: &http.Client{
			Transport:     opts.Transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if c.tokens == nil {
		c.tokens = newCredentials(opts, c)
	}
	return c, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// URL returns the front's URL, without a slash at its end.
func (c *Client) URL() string { return c.url }

// An Answer is the answer to a batch, or to a check of its status.
type Answer struct {
	// ID and URI are of the batch's status; empty if nothing was queued.
	ID  string `json:"status_check_id"`
	URI string `json:"status_check_uri"`
	// Status is Completed when every item is final, else Pending.
	Status intake.State `json:"status"`
	// Result has an entry for each item, in the order of the request.
	Result []Item `json:"result"`
	// Body is the answer as it came.
	Body []byte `json:"-"`
}

// An Item is what an answer says of one item.
type Item struct {
	Data   json.RawMessage `json:"data"` // as it was sent; empty with return=minimal
	Status ItemStatus      `json:"status"`
}

// An ItemStatus is the state of an item, with the reason for it.
type ItemStatus struct {
	State  intake.State `json:"state"`
	Code   intake.Code  `json:"code"`
	Reason string       `json:"validation_errors"`
}

// Verdict returns the status as the product's own packages have it.
func (s ItemStatus) Verdict() intake.Verdict { return intake.Verdict{Code: s.Code, Text: s.Reason} }

// IsFinal reports whether every item has its final state.
func (a *Answer) IsFinal() bool { return a.Status == intake.Completed }

// A MalformedError reports an answer that came whole and is not as the API has it.
type MalformedError struct {
	Body []byte
	Err  error
}

func (e *MalformedError) Error() string { return "read the answer: " + e.Err.Error() }
func (e *MalformedError) Unwrap() error { return e.Err }

// ParseAnswer reads an answer, as of a line of a stream. The error is a
// [*Problem] if it is the refusal of a batch, else a [*MalformedError].
func ParseAnswer(body []byte) (*Answer, error) {
	var read struct {
		Problem
		Status any `json:"status"` // a number, or the state of an answer
	}
	if json.Unmarshal(body, &read) == nil {
		if status, ok := read.Status.(float64); ok {
			read.Problem.Status, read.Body = int(status), body
			return nil, &read.Problem
		}
	}
	answer := &Answer{Body: body}
	if err := json.Unmarshal(body, answer); err != nil {
		return nil, &MalformedError{body, err}
	}
	return answer, nil
}

// BatchOptions say how a batch is to be treated. The zero value waits for the
// save as long as the front does by default.
type BatchOptions struct {
	Prefer         string // as in RFC 7240: wait=30, respond-async, return=minimal, handling=validate
	IdempotencyKey string
}

// Create sends a batch, a JSON array of items. The error is a [*Problem] if the
// batch was refused as a whole, and a [*TokenError] if there was no token, in
// which case nothing was sent. After another error the batch may be saved.
func (c *Client) Create(ctx context.Context, items []byte, opts BatchOptions) (*Answer, error) {
	header := http.Header{"Content-Type": {"application/json"}}
	if opts.Prefer != "" {
		header.Set("Prefer", opts.Prefer)
	}
	if opts.IdempotencyKey != "" {
		header.Set("Idempotency-Key", opts.IdempotencyKey)
	}
	body, err := c.call(ctx, http.MethodPost, "/api/v1/clients", header, items)
	if err != nil {
		return nil, err
	}
	return ParseAnswer(body)
}

// Status asks for the status of a batch by its status_check_id.
func (c *Client) Status(ctx context.Context, id string) (*Answer, error) {
	body, err := c.call(ctx, http.MethodGet, "/api/v1/clients/status/"+url.PathEscape(id), nil, nil)
	if err != nil {
		return nil, err
	}
	return ParseAnswer(body)
}

// Record returns the saved record of a partner client, as JSON.
func (c *Client) Record(ctx context.Context, partnerClientID string) (json.RawMessage, error) {
	return c.call(ctx, http.MethodGet, "/api/v1/clients/"+url.PathEscape(partnerClientID), nil, nil)
}

// Records are what a front says of items that it compared with the saved ones.
type Records struct {
	Result []struct {
		Record string `json:"record"` // "saved_same" if the item is saved with its data
		Detail string `json:"detail"`
		ID     string `json:"partner_client_id"`
	} `json:"result"`
}

// Reconcile compares the items of a batch with the saved ones. It saves nothing.
func (c *Client) Reconcile(ctx context.Context, items []byte) (*Records, error) {
	header := http.Header{"Content-Type": {"application/json"}}
	body, err := c.call(ctx, http.MethodPost, "/api/v1/clients/reconcile", header, items)
	if err != nil {
		return nil, err
	}
	records := new(Records)
	if err := json.Unmarshal(body, records); err != nil {
		return nil, &MalformedError{body, err}
	}
	return records, nil
}

// call makes a request, and returns the body of an answer that is no refusal.
func (c *Client) call(ctx context.Context, method, path string, header http.Header, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	response, err := c.send(ctx, method, path, header, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return text, nil
}

// send makes a request with a token. A refusal is an error.
func (c *Client) send(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response,
	error) {
	token, err := c.Token(ctx)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, c.url+path, body)
	if err != nil {
		return nil, err
	}
	if header != nil {
		request.Header = header
	}
	token.SetAuthHeader(request)
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusAccepted {
		defer response.Body.Close()
		return nil, readProblem(response)
	}
	return response, nil
}
