package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/go-jose/go-jose/v4"
)

// A discovery finds the keys of an external issuer, and reads them.
type discovery struct {
	issuer string
	url    *url.URL // of the issuer
	client *http.Client
	tokens atomic.Pointer[string] // the token endpoint; may be nil
}

func newDiscovery(issuer string, transport http.RoundTripper) (*discovery, error) {
	parsed, err := url.Parse(issuer)
	if err != nil {
		return nil, fmt.Errorf("--oauth-issuer is not a URL: %w", err)
	}
	hasQuery := parsed.RawQuery != "" || parsed.ForceQuery
	if parsed.Host == "" || parsed.User != nil || hasQuery || strings.Contains(issuer, "#") {
		return nil, fmt.Errorf("--oauth-issuer %q must have a host, and no user, query or fragment", parsed.Redacted())
	}
	d := &discovery{issuer: issuer, url: parsed}
	if parsed.Scheme != "https" && !(parsed.Scheme == "http" && isLoopback(parsed.Hostname())) {
		return nil, fmt.Errorf("--oauth-issuer %q must be https; http is allowed for this machine only", issuer)
	}
	if transport == nil {
		bounded := http.DefaultTransport.(*http.Transport).Clone()
		bounded.MaxResponseHeaderBytes = 64 << 10
		transport = bounded
	}
	d.client = &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) > 3 {
			return errors.New("too many redirects")
		}
		return d.check(r.URL)
	}}
	return d, nil
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// check returns an error if keys must not be read from an address: over plain http
// where the issuer itself is at https.
func (d *discovery) check(address *url.URL) error {
	if address.Scheme == "https" || d.url.Scheme == "http" && address.Scheme == "http" &&
		isLoopback(address.Hostname()) {
		return nil
	}
	return fmt.Errorf("%s is not https", address.Redacted())
}

// keys fetches the keys, without those that no token may be signed with.
func (d *discovery) keys(ctx context.Context) ([]issuerKey, error) {
	address, err := d.keysAddress(ctx)
	if err != nil {
		return nil, err
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := d.get(ctx, address, &set); err != nil {
		return nil, err
	}
	if set.Keys == nil {
		return nil, fmt.Errorf("%s is not a key set", address)
	}
	keys := []issuerKey{}
	for _, raw := range set.Keys {
		if key, ok := parseKey(raw); ok {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// parseKey parses a key of a set. A key that isn't understood must be ignored (RFC 7517
// §5).
func parseKey(raw json.RawMessage) (issuerKey, bool) {
	var jwk jose.JSONWebKey
	if err := json.Unmarshal(raw, &jwk); err != nil {
		return issuerKey{}, false
	}
	key := issuerKey{id: jwk.KeyID, alg: jwk.Algorithm, public: jwk.Key}
	usable := (jwk.Use == "" || jwk.Use == "sig") && slices.ContainsFunc(algorithms, key.fits)
	return key, usable
}

// keysAddress asks the issuer where its keys are, by OpenID Connect Discovery or else
// by RFC 8414.
func (d *discovery) keysAddress(ctx context.Context) (string, error) {
	origin := d.url.Scheme + "://" + d.url.Host
	path := strings.TrimSuffix(d.url.EscapedPath(), "/")
	openid := origin + path + "/.well-known/openid-configuration"
	oauth := origin + "/.well-known/oauth-authorization-server" + path
	var errs []error
	for _, address := range []string{openid, oauth} {
		keys, err := d.readMetadata(ctx, address)
		if err == nil {
			return keys, nil
		}
		errs = append(errs, err)
	}
	return "", errors.Join(errs...)
}

func (d *discovery) readMetadata(ctx context.Context, address string) (keys string, err error) {
	var metadata struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
		Tokens string `json:"token_endpoint"`
	}
	if err := d.get(ctx, address, &metadata); err != nil {
		return "", err
	}
	if metadata.Issuer != d.issuer {
		return "", fmt.Errorf("%s is about the issuer %q, not %q", address, metadata.Issuer, d.issuer)
	}
	parsed, err := url.Parse(metadata.Keys)
	if err != nil {
		return "", fmt.Errorf("the jwks_uri in %s: %w", address, err)
	}
	if err := d.check(parsed); err != nil {
		return "", fmt.Errorf("the jwks_uri in %s: %w", address, err)
	}
	if parsed, err := url.Parse(metadata.Tokens); err != nil || d.check(parsed) != nil {
		metadata.Tokens = ""
	}
	d.tokens.Store(&metadata.Tokens)
	return metadata.Keys, nil
}

// tokenURL returns the issuer's token endpoint, "" if it has none or none is known yet.
func (d *discovery) tokenURL() string {
	if tokens := d.tokens.Load(); tokens != nil {
		return *tokens
	}
	return ""
}

// maxDocument bounds what is read of an answer, in bytes.
const maxDocument = 1 << 20

func (d *discovery) get(ctx context.Context, address string, document any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json")
	response, err := d.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", address, response.Status)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxDocument+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", address, err)
	}
	if len(text) > maxDocument {
		return fmt.Errorf("%s is larger than %d bytes", address, maxDocument)
	}
	if err := json.Unmarshal(text, document); err != nil {
		return fmt.Errorf("read %s: %w", address, err)
	}
	return nil
}
