package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"intake/cmd/intake/internal/problem"
	"intake/sink"
)

const tokenLifetime = time.Hour

// claims are those of an access token (RFC 9068).
type claims struct {
	jwt.RegisteredClaims
	ClientID string `json:"client_id"`
	Scope    string `json:"scope"`
	// Partner is the partner's number: its name may be given to another partner later.
	Partner int32 `json:"intake_partner"`
}

// A tokenError refuses a token (RFC 6749 §5.2).
type tokenError struct {
	status      int
	code        string
	description string
	retryAfter  time.Duration
}

// Error implements error.
func (e *tokenError) Error() string { return e.code + ": " + e.description }

func (e *tokenError) write(w http.ResponseWriter, r *http.Request) {
	// Only for a client that used Authorization: a browser shows its own sign-in
	// dialog for this header, and the reference page would hang.
	if e.status == http.StatusUnauthorized && r.Header.Get("Authorization") != "" {
		w.Header().Set("WWW-Authenticate", `Basic realm="intake"`)
	}
	if e.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(e.retryAfter/time.Second)))
	}
	writeJSON(w, e.status, map[string]string{"error": e.code, "error_description": e.description})
}

func invalidRequest(description string) *tokenError {
	return &tokenError{status: http.StatusBadRequest, code: "invalid_request", description: description}
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	header := w.Header()
	header.Set("Content-Type", "application/json")
	if header.Get("Cache-Control") == "" {
		header.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // a client that is gone needs no answer
}

// A tokenAnswer is the answer to a request for a token (RFC 6749 §5.1).
type tokenAnswer struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int    `json:"expires_in"` // seconds
	Scope       string `json:"scope"`
}

// IssueToken is POST /oauth/token: the client credentials grant (RFC 6749 §4.4).
func (a *Authenticator) IssueToken(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, 8<<10)
	answer, err := a.issueToken(r)
	if refusal, ok := errors.AsType[*tokenError](err); ok {
		refusal.write(w, r)
		return nil
	}
	if err == nil {
		writeJSON(w, http.StatusOK, answer)
	}
	return err
}

func (a *Authenticator) issueToken(r *http.Request) (*tokenAnswer, error) {
	directory := a.directory.Load()
	if directory == nil {
		return nil, errStarting
	}
	key := directory.signer()
	if key == nil {
		return nil, problem.New(problem.Starting, "the signing key is being replaced").After(time.Second)
	}
	if err := r.ParseForm(); err != nil {
		return nil, invalidRequest("the body is not a form of at most 8 KiB")
	}
	for _, values := range r.PostForm {
		if len(values) > 1 {
			return nil, invalidRequest("a parameter is given more than once")
		}
	}
	partner, err := a.authenticateClient(r, directory)
	if err != nil {
		return nil, err
	}
	switch grant := r.PostForm.Get("grant_type"); grant {
	case "client_credentials":
	case "":
		return nil, invalidRequest("grant_type is missing")
	default:
		return nil, &tokenError{
			status: http.StatusBadRequest, code: "unsupported_grant_type", description: "use client_credentials",
		}
	}
	scope, ok := grantedScope(r.PostForm.Get("scope"))
	if !ok {
		return nil, &tokenError{
			status: http.StatusBadRequest, code: "invalid_scope",
			description: "the scopes are " + ScopeWrite + " and " + ScopeRead,
		}
	}
	token, err := a.sign(key, partner, scope)
	if err != nil {
		a.opts.Logger.Error("cannot sign a token", zap.String("key", key.id), zap.Error(err))
		return nil, &tokenError{
			status: http.StatusInternalServerError, code: "server_error", description: "tokens can't be signed now",
		}
	}
	return &tokenAnswer{
		AccessToken: token, TokenType: "Bearer", ExpiresIn: int(tokenLifetime / time.Second), Scope: scope,
	}, nil
}

// authenticateClient returns the partner whose credentials a request for a token has.
func (a *Authenticator) authenticateClient(r *http.Request, directory *directory) (*sink.PartnerRecord, error) {
	id, secret, err := clientCredentials(r)
	if err != nil {
		return nil, err
	}
	from := pairOf(a.opts.Proxies.Of(r), id)
	if wait := a.guesses.wait(from); wait > 0 {
		return nil, &tokenError{
			status: http.StatusTooManyRequests, code: "slow_down", retryAfter: wait,
			description: "too many wrong credentials came from this address",
		}
	}
	partner, ok := directory.authenticate(id, secret)
	a.guesses.note(from, ok)
	if !ok {
		return nil, &tokenError{
			status: http.StatusUnauthorized, code: "invalid_client", description: "unknown client, or wrong secret",
		}
	}
	return partner, nil
}

// clientCredentials returns the credentials from the header or from the form, not both
// (RFC 6749 §2.3.1).
func clientCredentials(r *http.Request) (id, secret string, err error) {
	header := r.Header.Get("Authorization")
	id, secret = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	if header == "" {
		return id, secret, nil
	}
	if secret != "" {
		return "", "", invalidRequest("the client secret is in the header and in the body: use one of them")
	}
	basicID, basicSecret, ok := r.BasicAuth()
	if !ok {
		return "", "", invalidRequest("Authorization is not Basic")
	}
	basicID, idErr := url.QueryUnescape(basicID)
	basicSecret, secretErr := url.QueryUnescape(basicSecret)
	if idErr != nil || secretErr != nil {
		return "", "", invalidRequest("the credentials in Authorization are not form-encoded")
	}
	if id != "" && id != basicID {
		return "", "", invalidRequest("the client id in the header and the one in the body differ")
	}
	return basicID, basicSecret, nil
}

// authenticate returns the partner of a client id, and whether the secret is one of
// the partner's and the partner is enabled. It takes as long for an unknown client as
// for a wrong secret.
func (d *directory) authenticate(id, secret string) (*sink.PartnerRecord, bool) {
	given := sha256.Sum256([]byte(secret))
	var kept [32]byte
	var old [][32]byte
	partner := d.partners[id]
	if partner != nil {
		kept, old = partner.SecretHash, partner.OldSecretHashes
	}
	same := subtle.ConstantTimeCompare(given[:], kept[:])
	for i := range old {
		same |= subtle.ConstantTimeCompare(given[:], old[i][:])
	}
	return partner, same == 1 && partner != nil && !partner.Disabled
}

// grantedScope returns the scopes asked for, all of them if none is. It reports false
// if one of them is unknown.
func grantedScope(asked string) (string, bool) {
	all := []string{ScopeWrite, ScopeRead}
	fields := strings.Fields(asked)
	if len(fields) == 0 {
		return strings.Join(all, " "), true
	}
	var granted []string
	for _, scope := range fields {
		if !slices.Contains(all, scope) {
			return "", false
		}
		if !slices.Contains(granted, scope) {
			granted = append(granted, scope)
		}
	}
	return strings.Join(granted, " "), true
}

func (a *Authenticator) sign(key *signingKey, partner *sink.PartnerRecord, scope string) (string, error) {
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: a.opts.PublicURL, Subject: partner.Name, Audience: jwt.ClaimStrings{a.opts.PublicURL},
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(tokenLifetime)),
			ID: uuid.NewString(),
		},
		ClientID: partner.Name, Scope: scope, Partner: partner.ID,
	})
	token.Header["typ"] = "at+jwt"
	token.Header["kid"] = key.id
	return token.SignedString(key.private)
}

// ServeKeys is GET /.well-known/jwks.json (RFC 7517).
func (a *Authenticator) ServeKeys(w http.ResponseWriter, _ *http.Request) error {
	directory := a.directory.Load()
	if directory == nil {
		return errStarting
	}
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for i := range directory.keys {
		if k := &directory.keys[i]; !k.isOver() {
			set.Keys = append(set.Keys, jose.JSONWebKey{
				Key: &k.private.PublicKey, KeyID: k.id, Algorithm: string(jose.ES256), Use: "sig",
			})
		}
	}
	// A new key is published for longer than that before it signs.
	w.Header().Set("Cache-Control", "public, max-age=300")
	writeJSON(w, http.StatusOK, set)
	return nil
}

// ServeMetadata is GET /.well-known/oauth-authorization-server (RFC 8414).
func (a *Authenticator) ServeMetadata(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Cache-Control", "public, max-age=300")
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer":                                a.opts.PublicURL,
		"token_endpoint":                        a.opts.PublicURL + "/oauth/token",
		"jwks_uri":                              a.opts.PublicURL + "/.well-known/jwks.json",
		"grant_types_supported":                 []string{"client_credentials"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post"},
		"scopes_supported":                      []string{ScopeWrite, ScopeRead},
		"response_types_supported":              []string{},
	})
	return nil
}
