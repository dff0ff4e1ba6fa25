package front

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
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

	"intake"
	"intake/sink"
)

// The scopes of a token.
const (
	scopeWrite = "clients:write"
	scopeRead  = "clients:read"
)

const tokenLifetime = time.Hour

// claims are an access token's (RFC 9068).
type claims struct {
	jwt.RegisteredClaims
	ClientID string `json:"client_id"`
	Scope    string `json:"scope"`
	// Partner is the partner's number: a name may come to belong to another.
	Partner int32 `json:"intake_partner"`
}

// tokenError answers as RFC 6749 §5.2 has it.
func tokenError(w http.ResponseWriter, status int, code, description string) {
	header := w.Header()
	if status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", `Basic realm="intake"`)
	}
	writeJSON(w, status, map[string]string{"error": code, "error_description": description})
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

// issueToken is POST /oauth/token: the client credentials grant (RFC 6749 §4.4).
func (f *Front) issueToken(w http.ResponseWriter, r *http.Request) {
	directory := f.directory.Load()
	if directory == nil {
		writeProblem(w, problem{code: codeStarting, retryAfter: time.Second, detail: "the partners are not read yet"})
		return
	}
	key := directory.signer()
	if key == nil {
		writeProblem(w, problem{code: codeStarting, retryAfter: time.Second, detail: "the signing key is being replaced"})
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 8<<10)
	if err := r.ParseForm(); err != nil {
		tokenError(w, http.StatusBadRequest, "invalid_request", "the body is not a form of at most 8 KiB")
		return
	}
	for _, values := range r.PostForm {
		if len(values) > 1 {
			tokenError(w, http.StatusBadRequest, "invalid_request", "a parameter is given more than once")
			return
		}
	}
	id, secret, problem := clientCredentials(r)
	if problem != "" {
		tokenError(w, http.StatusBadRequest, "invalid_request", problem)
		return
	}
	from := pairOf(f.addressOf(r), id)
	if wait := f.guesses.wait(from); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)))
		tokenError(w, http.StatusTooManyRequests, "slow_down", "too many wrong credentials came from this address")
		return
	}
	partner, ok := directory.authenticate(id, secret)
	f.guesses.note(from, ok)
	if !ok {
		tokenError(w, http.StatusUnauthorized, "invalid_client", "unknown client, or wrong secret")
		return
	}
	switch grant := r.PostForm.Get("grant_type"); grant {
	case "client_credentials":
	case "":
		tokenError(w, http.StatusBadRequest, "invalid_request", "grant_type is missing")
		return
	default:
		tokenError(w, http.StatusBadRequest, "unsupported_grant_type", "use client_credentials")
		return
	}
	scope, ok := grantedScope(r.PostForm.Get("scope"))
	if !ok {
		tokenError(w, http.StatusBadRequest, "invalid_scope", "the scopes are "+scopeWrite+" and "+scopeRead)
		return
	}
	token, err := f.sign(key, partner, scope)
	if err != nil {
		f.opts.Logger.Error("cannot sign a token", zap.Error(err))
		tokenError(w, http.StatusInternalServerError, "server_error", "no token can be made now")
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": token, "token_type": "Bearer", "expires_in": int(tokenLifetime / time.Second), "scope": scope,
	})
}

// clientCredentials reads them from the header or from the form, not both
// (RFC 6749 §2.3.1).
func clientCredentials(r *http.Request) (id, secret, problem string) {
	header := r.Header.Get("Authorization")
	id, secret = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	if header == "" {
		return id, secret, ""
	}
	if secret != "" {
		return "", "", "the client secret is in the header and in the body: use one of them"
	}
	basicID, basicSecret, ok := r.BasicAuth()
	if !ok {
		return "", "", "Authorization is not Basic"
	}
	var errs [2]error
	basicID, errs[0] = url.QueryUnescape(basicID)
	basicSecret, errs[1] = url.QueryUnescape(basicSecret)
	if errs[0] != nil || errs[1] != nil {
		return "", "", "the credentials in Authorization are not form-encoded"
	}
	if id != "" && id != basicID {
		return "", "", "the client id in the header and the one in the body differ"
	}
	return basicID, basicSecret, ""
}

// authenticate takes as long for an unknown client as for a wrong secret.
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

// grantedScope gives the scopes asked for, all if none are.
func grantedScope(asked string) (string, bool) {
	all := []string{scopeWrite, scopeRead}
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

func (f *Front) sign(key *signingKey, partner *sink.PartnerRecord, scope string) (string, error) {
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: f.opts.PublicURL, Subject: partner.Name, Audience: jwt.ClaimStrings{f.opts.PublicURL},
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(tokenLifetime)), ID: uuid.NewString(),
		},
		ClientID: partner.Name, Scope: scope, Partner: partner.ID,
	})
	token.Header["typ"] = "at+jwt"
	token.Header["kid"] = key.id
	return token.SignedString(key.private)
}

// serveKeys is GET /.well-known/jwks.json (RFC 7517).
func (f *Front) serveKeys(w http.ResponseWriter, _ *http.Request) {
	directory := f.directory.Load()
	if directory == nil {
		writeProblem(w, problem{code: codeStarting, retryAfter: time.Second, detail: "the keys are not read yet"})
		return
	}
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for i := range directory.keys {
		if k := &directory.keys[i]; !k.isOver() {
			set.Keys = append(set.Keys, jose.JSONWebKey{
				Key: &k.private.PublicKey, KeyID: k.id, Algorithm: string(jose.ES256), Use: "sig",
			})
		}
	}
	// A new key is here for longer than that before it signs.
	w.Header().Set("Cache-Control", "public, max-age=300")
	writeJSON(w, http.StatusOK, set)
}

// serveMetadata is GET /.well-known/oauth-authorization-server (RFC 8414).
func (f *Front) serveMetadata(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "public, max-age=300")
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer":                                f.opts.PublicURL,
		"token_endpoint":                        f.opts.PublicURL + "/oauth/token",
		"jwks_uri":                              f.opts.PublicURL + "/.well-known/jwks.json",
		"grant_types_supported":                 []string{"client_credentials"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post"},
		"scopes_supported":                      []string{scopeWrite, scopeRead},
		"response_types_supported":              []string{},
	})
}

// partnerOf gives the partner that a token names, if it may still come in.
func (d *directory) partnerOf(p *pass) (intake.Partner, bool) {
	partner := d.partners[p.partner]
	if partner == nil || partner.Disabled || p.number != 0 && p.number != partner.ID {
		return intake.Partner{}, false
	}
	return partner.Partner, true
}
