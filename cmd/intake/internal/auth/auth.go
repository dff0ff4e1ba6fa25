// Package auth finds out which partner a request comes from, by its access token.
//
// A token is of the built-in issuer, which signs with keys that all fronts share in
// the data store, or of one external issuer, or both are taken. Either way the token
// only names the partner: whether that partner is known and enabled is looked up for
// each request, in a directory that is read every two seconds.
//
//	auth.go       Authenticator: a request's identity, or why it is refused
//	directory.go  the partners and the signing keys, as read last
//	token.go      POST /oauth/token and the documents about the built-in issuer
//	guess.go      bounds on wrong client credentials
//	verify.go     checking a token, and the cache of those checked
//	issuer.go     the external issuer: discovery.go finds its keys, keyset.go keeps them
//	secret.go     client secrets
package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"intake"
	"intake/cmd/intake/internal/origin"
	"intake/cmd/intake/internal/problem"
	"intake/internal/safety"
	"intake/sink"
)

// The scopes of a token.
const (
	ScopeWrite = "clients:write"
	ScopeRead  = "clients:read"
)

// A Registry is where the partners are, and the keys that tokens are signed with.
type Registry interface {
	Partners(ctx context.Context) ([]sink.PartnerRecord, error)
	SigningKeys(ctx context.Context) (keys []sink.SigningKey, now time.Time, err error)
}

// Options of an Authenticator. Registry and PublicURL are required.
type Options struct {
	Registry Registry
	// PublicURL is where partners reach the server, without a slash at its end: the
	// issuer and the audience of its own tokens.
	PublicURL string
	// Issuer is an external issuer whose tokens are taken too.
	Issuer ExternalIssuer
	// NoBuiltinIssuer switches the built-in issuer off: it issues no tokens, and those
	// that it has issued are refused.
	NoBuiltinIssuer bool
	// Proxies are the trusted proxies in front.
	Proxies    origin.Proxies
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// An Authenticator authenticates requests, and is the built-in issuer of tokens. It is
// safe for concurrent use.
type Authenticator struct {
	opts      Options
	directory atomic.Pointer[directory]
	unread    atomic.Pointer[error] // why the directory could not be read, the last time
	issuer    *issuer               // the external one; may be nil
	tokens    tokenCache
	guesses   *guesses
}

// New returns an Authenticator. It refuses all requests until Run or Reload has read
// the partners.
func New(opts Options) (*Authenticator, error) {
	if opts.Registry == nil || opts.PublicURL == "" {
		return nil, errors.New("auth: a registry and a public URL are required")
	}
	if opts.NoBuiltinIssuer && opts.Issuer.URL == "" {
		return nil, errors.New("--no-builtin-issuer requires --oauth-issuer: no token would be valid")
	}
	if !opts.NoBuiltinIssuer && opts.Issuer.URL == opts.PublicURL {
		return nil, fmt.Errorf("--oauth-issuer %s is the front itself: name another issuer, or add --no-builtin-issuer",
			opts.Issuer.URL)
	}
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	a := &Authenticator{opts: opts, guesses: newGuesses()}
	if opts.Issuer.URL != "" {
		var err error
		if a.issuer, err = newIssuer(opts.Issuer, opts.PublicURL, opts.Logger, opts.Registerer); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// ReloadInterval is how often the partners are read: a change reaches a front well
// within the 5 s that are promised.
const ReloadInterval = 2 * time.Second

// Run keeps up with the partners, and with the keys of the external issuer, until ctx
// ends. When they can't be read, those read last stay in force.
func (a *Authenticator) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	if a.issuer != nil {
		running.Go(func() { a.issuer.run(ctx) })
	}
	a.followPartners(ctx)
	return nil
}

func isUnsafe(err error) bool {
	breaches, _ := safety.Find(err)
	return len(breaches) > 0
}

func (a *Authenticator) followPartners(ctx context.Context) {
	ticker := time.NewTicker(ReloadInterval)
	defer ticker.Stop()
	failing := false
	for {
		err := a.Reload(ctx)
		a.unread.Store(&err)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing && !isUnsafe(err): // what is unsafe, the check of the servers says, once
			a.opts.Logger.Warn("cannot read the partners, using those read before", zap.Error(err))
		case err == nil && failing:
			a.opts.Logger.Info("the partners can be read again")
		}
		failing = err != nil
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// Ready returns nil once the partners have been read, until then why they have not.
func (a *Authenticator) Ready(context.Context) error {
	if a.directory.Load() != nil {
		return nil
	}
	if err := a.unread.Load(); err != nil && *err != nil {
		return fmt.Errorf("the partners have not been read yet: %w", *err)
	}
	return errors.New("the partners have not been read yet")
}

// HasBuiltinIssuer reports whether the built-in issuer issues tokens.
func (a *Authenticator) HasBuiltinIssuer() bool { return !a.opts.NoBuiltinIssuer }

// ExternalTokenURL returns the token endpoint of the external issuer, "" if there is
// none or it is not known yet.
func (a *Authenticator) ExternalTokenURL() string {
	if a.issuer == nil {
		return ""
	}
	return a.issuer.discovery.tokenURL()
}

// An Identity is the partner that a request comes from.
type Identity struct {
	Partner intake.Partner // as the directory has it
	token   *verifiedToken
}

// Authenticate returns who sends a request, if its token has a scope (RFC 6750). If
// not, the error is a [problem.Problem].
func (a *Authenticator) Authenticate(r *http.Request, scope string) (Identity, error) {
	directory := a.directory.Load()
	if directory == nil {
		return Identity{}, errStarting
	}
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return Identity{}, challenge(errMissing, "")
	}
	kind, text, ok := strings.Cut(headers[0], " ")
	if !ok || len(headers) > 1 || !strings.EqualFold(kind, "Bearer") {
		return Identity{}, challenge(errHeader, `, error="invalid_request"`)
	}
	token, err := a.verify(r.Context(), directory, strings.TrimSpace(text))
	switch {
	case errors.Is(err, errKeysUnread):
		return Identity{}, problem.New(problem.IssuerUnavailable, "%s",
			errKeysUnread).After(a.issuer.keys.pace.cooldown)
	case errors.Is(err, jwt.ErrTokenExpired):
		return Identity{}, challenge(errExpired, `, error="invalid_token", error_description="`+errExpired.Detail+`"`)
	case err != nil:
		return Identity{}, challenge(errInvalid, `, error="invalid_token", error_description="`+errInvalid.Detail+`"`)
	}
	partner, ok := directory.partnerOf(token)
	if !ok {
		return Identity{}, challenge(errRefused, `, error="invalid_token"`)
	}
	if !slices.Contains(token.scopes, scope) {
		return Identity{}, challenge(
			problem.New(problem.ScopeMissing, "the access token lacks the scope %s", scope),
			`, error="insufficient_scope", scope="`+scope+`"`)
	}
	return Identity{Partner: partner, token: token}, nil
}

var (
	errStarting = problem.New(problem.Starting, "the partners have not been read yet").After(time.Second)
	errMissing  = problem.New(problem.TokenMissing, "an access token is required: Authorization: Bearer …")
	errHeader   = problem.New(problem.BadAuthorization,
		"Authorization must be given once, as Bearer and an access token")
	errInvalid = problem.New(problem.TokenInvalid, "the access token is not valid")
	errExpired = problem.New(problem.TokenExpired, "the access token has expired")
	errRefused = problem.New(problem.PartnerRefused, "the partner that the access token names is unknown or disabled")
)

func challenge(p *problem.Problem, params string) *problem.Problem {
	return p.With("WWW-Authenticate", `Bearer realm="intake"`+params)
}

// Recheck returns an identity as it is now: with the partner's present settings, or
// with the [problem.Problem] that its token would be refused with.
func (a *Authenticator) Recheck(id Identity) (Identity, error) {
	directory := a.directory.Load()
	switch {
	case id.token.hasExpired():
		return Identity{}, errExpired
	case id.token.isOver(directory):
		return Identity{}, errInvalid
	}
	partner, ok := directory.partnerOf(id.token)
	if !ok {
		return Identity{}, errRefused
	}
	return Identity{Partner: partner, token: id.token}, nil
}
