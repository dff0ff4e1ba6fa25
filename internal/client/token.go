package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// A TokenSource returns an access token that is valid now. It must be safe for
// concurrent use.
type TokenSource interface {
	Token(context.Context) (*oauth2.Token, error)
}

// A TokenError reports that there was no token, so that nothing was sent. Err is
// a [*Problem] if the token was refused.
type TokenError struct{ Err error }

func (e *TokenError) Error() string { return "get a token: " + e.Err.Error() }
func (e *TokenError) Unwrap() error { return e.Err }

// Token returns a token with all scopes that the partner has. It is kept until
// shortly before it expires. The error is a [*TokenError].
func (c *Client) Token(ctx context.Context) (*oauth2.Token, error) {
	token, err := c.tokens.Token(ctx)
	if err != nil {
		return nil, &TokenError{err}
	}
	return token, nil
}

// tokenTimeout bounds the request for a token.
const tokenTimeout = 30 * time.Second

// credentials get tokens for a client id and a secret.
type credentials struct {
	config clientcredentials.Config
	http   *http.Client
	token  *oauth2.Token // guarded by turn
	// turn is held while a token is fetched. It is a channel and no mutex so that
	// those who wait can give up.
	turn chan struct{}
}

func newCredentials(opts Options, c *Client) *credentials {
	config := clientcredentials.Config{
		ClientID: opts.ClientID, ClientSecret: opts.ClientSecret, TokenURL: opts.TokenURL,
		Scopes: []string{"clients:write", "clients:read"},
	}
	if config.TokenURL == "" {
		config.TokenURL = c.url + "/oauth/token"
		// The front takes both styles. Trying one after the other, as is the
		// default, would count as two wrong secrets.
		config.AuthStyle = oauth2.AuthStyleInHeader
	}
	return &credentials{config: config, http: c.http, turn: make(chan struct{}, 1)}
}

// Token returns the token at hand while it is valid, and otherwise a new one.
func (c *credentials) Token(ctx context.Context) (*oauth2.Token, error) {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-c.turn }()
	if c.token.Valid() {
		return c.token, nil
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	token, err := c.config.Token(context.WithValue(ctx, oauth2.HTTPClient, c.http))
	if err != nil {
		return nil, c.explain(err)
	}
	c.token = token
	return token, nil
}

// explain makes a refusal a Problem.
func (c *credentials) explain(err error) error {
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) {
		return err
	}
	problem := &Problem{
		Status: refused.Response.StatusCode, Body: refused.Body, Code: refused.ErrorCode,
		RetryAfter: parseRetryAfter(refused.Response.Header.Get("Retry-After"), time.Now()),
	}
	switch {
	case refused.ErrorDescription != "":
		problem.Detail = fmt.Sprintf("%s, %s", refused.ErrorCode, refused.ErrorDescription)
	case refused.ErrorCode != "":
		problem.Detail = refused.ErrorCode
	default:
		problem.Detail = "the answer is not an issuer's, check the URL " + c.config.TokenURL
	}
	return problem
}
