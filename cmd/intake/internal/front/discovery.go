package front

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

// A discovery finds and reads the keys of an external issuer.
type discovery struct {
	issuer string
	url    *url.URL // of the issuer
	client *http.Client
	tokens atomic.Pointer[string] // the token endpoint; may be nil
}

func newDiscovery(issuer string) (*discovery, error) {
	parsed, err := url.Parse(issuer)
	if err != nil {
		return nil, fmt.Errorf("the external issuer's URL: %w", err)
	}
	if parsed.Host == "" || parsed.User != nil || parsed.RawQuery != "" || parsed.ForceQuery || strings.Contains(issuer, "#") {
		return nil, fmt.Errorf("the external issuer's URL %q must have a host, and no user, query or fragment", parsed.Redacted())
	}
	d := &discovery{issuer: issuer, url: parsed}
	if parsed.Scheme != "https" && !(parsed.Scheme == "http" && isLoopback(parsed.Hostname())) {
		return nil, fmt.Errorf("the external issuer's URL %q must be https; http is for this machine only", issuer)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxResponseHeaderBytes = 64 << 10
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

// check tells whether keys may come from an address: never over plain http where
// the issuer itself is at https.
func (d *discovery) check(address *url.URL) error {
	if address.Scheme == "https" || d.url.Scheme == "http" && address.Scheme == "http" && isLoopback(address.Hostname()) {
		return nil
	}
	return fmt.Errorf("%s is not https", address.Redacted())
}

// keys fetches the keys. Those that no token may be signed with are left out.
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

// parseKey reads a key of a set. One that isn't understood is to be ignored
// (RFC 7517 §5).
func parseKey(raw json.RawMessage) (issuerKey, bool) {
	var jwk jose.JSONWebKey
	if err := json.Unmarshal(raw, &jwk); err != nil {
		return issuerKey{}, false
	}
	key := issuerKey{id: jwk.KeyID, alg: jwk.Algorithm, public: jwk.Key}
	usable := (jwk.Use == "" || jwk.Use == "sig") && slices.ContainsFunc(algorithms, key.fits)
	return key, usable
}

// keysAddress asks the issuer where its keys are: by OpenID Connect Discovery, or
// else by RFC 8414.
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

// tokenURL gives the issuer's token endpoint, for those who read about it; "" if
// there is none, or it is not known yet.
func (d *discovery) tokenURL() string {
	if tokens := d.tokens.Load(); tokens != nil {
		return *tokens
	}
	return ""
}

// maxDocument bounds what is read of an answer.
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
