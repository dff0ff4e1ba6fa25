package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// An ExternalIssuer is an authorization server whose tokens are taken beside those of
// the built-in issuer, or instead of them.
type ExternalIssuer struct {
	// URL is the issuer as its tokens name it. There is no external issuer if it is empty.
	URL string
	// Audience must be one of a token's audiences. The default is the public URL.
	Audience string
	// PartnerClaim is the claim that holds the partner's name. The default is client_id.
	PartnerClaim string
	// Transport reaches the issuer. The default is like [http.DefaultTransport].
	Transport http.RoundTripper
}

// algorithms are those that an external issuer may sign with (RFC 8725 §3.1): not
// "none", and none whose key both sides share.
var algorithms = []string{"ES256", "ES384", "RS256", "PS256", "EdDSA"}

// errKeysUnread is returned while no keys of the external issuer have been read, so
// that its tokens can't be checked.
var errKeysUnread = errors.New("the keys of the external issuer have not been read yet")

// An issuer verifies the tokens of an external issuer.
type issuer struct {
	ExternalIssuer
	discovery *discovery
	keys      *keySet
	parser    *jwt.Parser
}

func newIssuer(
	external ExternalIssuer, publicURL string, logger *zap.Logger, registerer prometheus.Registerer,
) (*issuer, error) {
	if external.Audience == "" {
		external.Audience = publicURL
	}
	if external.PartnerClaim == "" {
		external.PartnerClaim = "client_id"
	}
	discovery, err := newDiscovery(external.URL, external.Transport)
	if err != nil {
		return nil, err
	}
	logger = logger.With(zap.String("issuer", external.URL))
	return &issuer{
		ExternalIssuer: external, discovery: discovery,
		keys: newKeySet(discovery.keys, logger, newIssuerMetrics(registerer)),
		parser: jwt.NewParser(jwt.WithValidMethods(algorithms),
			jwt.WithIssuer(external.URL), jwt.WithAudience(external.Audience),
			jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(clockLeeway), jwt.WithStrictDecoding()),
	}, nil
}

// run keeps up with the issuer's keys until ctx ends.
func (i *issuer) run(ctx context.Context) {
	defer i.discovery.client.CloseIdleConnections()
	i.keys.run(ctx)
}

// verify checks a token (RFC 9068 §4, RFC 8725). It returns errKeysUnread while there
// are no keys to check it with.
func (i *issuer) verify(ctx context.Context, token string) (*verifiedToken, error) {
	claims, key := jwt.MapClaims{}, (*issuerKey)(nil)
	if _, err := i.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (_ any, err error) {
		if key, err = i.keyOf(ctx, t); err != nil {
			return nil, err
		}
		return key.public, nil
	}); err != nil {
		return nil, err
	}
	partner, _ := claims[i.PartnerClaim].(string)
	if partner == "" {
		return nil, fmt.Errorf("%w: no %s", jwt.ErrTokenInvalidClaims, i.PartnerClaim)
	}
	expires, err := claims.GetExpirationTime()
	if err != nil {
		return nil, err
	}
	return &verifiedToken{
		partner: partner, scopes: knownScopes(scopesOf(claims)), expires: expires.Time, issuer: i, key: key,
	}, nil
}

// keyOf returns the key that a token must be signed with. All that the token says about
// keys beside kid (jwk, jku, x5c, x5u) is ignored.
func (i *issuer) keyOf(ctx context.Context, t *jwt.Token) (*issuerKey, error) {
	if err := i.checkHeader(t); err != nil {
		return nil, err
	}
	var id *string
	if given, ok := t.Header["kid"]; ok {
		text, ok := given.(string)
		if !ok {
			return nil, errors.New("the token's kid is not a string")
		}
		id = &text
	}
	alg := t.Method.Alg()
	if key := i.keys.find(id, alg); key != nil {
		return key, nil
	}
	i.keys.refetch(ctx)
	if key := i.keys.find(id, alg); key != nil {
		return key, nil
	}
	if !i.keys.wasRead() {
		return nil, errKeysUnread
	}
	return nil, errors.New("the token is signed with a key that its issuer doesn't have")
}

// checkHeader refuses a token that is wrong whatever its key.
func (i *issuer) checkHeader(t *jwt.Token) error {
	typ, _ := t.Header["typ"].(string)
	switch strings.ToLower(typ) {
	case "at+jwt", "application/at+jwt", "jwt":
	default:
		return fmt.Errorf("the token's type is %q", typ)
	}
	if _, ok := t.Header["crit"]; ok {
		return errors.New("the token has extensions that are not understood")
	}
	if name, err := t.Claims.GetIssuer(); err != nil || name != i.URL {
		return jwt.ErrTokenInvalidIssuer
	}
	return nil
}

// scopesOf returns the scopes in scope (RFC 8693 §4.2) or, without it, in scp, which
// some issuers use: a string or an array.
func scopesOf(claims jwt.MapClaims) (scopes []string) {
	if scope, ok := claims["scope"].(string); ok {
		return strings.Fields(scope)
	}
	switch scp := claims["scp"].(type) {
	case string:
		return strings.Fields(scp)
	case []any:
		for _, scope := range scp {
			if scope, ok := scope.(string); ok {
				scopes = append(scopes, scope)
			}
		}
	}
	return scopes
}

// issuerOf returns the issuer that a token names, unverified.
func issuerOf(token string) string {
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(token, &claims); err != nil {
		return ""
	}
	return claims.Issuer
}
