package front

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"intake/cmd/intake/internal/reference"
)

// An ExternalIssuer is an authorization server whose tokens let partners in,
// beside those that the front issues itself, or instead of them.
type ExternalIssuer struct {
	// URL is the issuer as its tokens name it. There is none when it is empty.
	URL string
	// Audience must be among those of a token; the front's public URL when empty.
	Audience string
	// PartnerClaim is the claim that has the partner's name; client_id when empty.
	PartnerClaim string
}

// algorithms are those that an external issuer may sign with (RFC 8725 §3.1):
// neither none, nor those whose key both sides share.
var algorithms = []string{"ES256", "ES384", "RS256", "PS256", "EdDSA"}

// errKeysUnread says that no keys of the external issuer have been read yet, so
// that nothing can be said about its tokens.
var errKeysUnread = errors.New("the keys of the external issuer are not read yet")

// An issuer verifies the tokens of an external issuer.
type issuer struct {
	ExternalIssuer
	discovery *discovery
	keys      *keySet
	parser    *jwt.Parser
}

func newIssuer(external ExternalIssuer, publicURL string, logger *zap.Logger, registerer prometheus.Registerer) (*issuer, error) {
	if external.Audience == "" {
		external.Audience = publicURL
	}
	if external.PartnerClaim == "" {
		external.PartnerClaim = "client_id"
	}
	discovery, err := newDiscovery(external.URL)
	if err != nil {
		return nil, err
	}
	logger = logger.With(zap.String("issuer", external.URL))
	return &issuer{
		ExternalIssuer: external, discovery: discovery,
		keys: newKeySet(discovery.keys, logger, newIssuerMetrics(registerer)),
		parser: jwt.NewParser(jwt.WithValidMethods(algorithms), jwt.WithIssuer(external.URL), jwt.WithAudience(external.Audience),
			jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(clockLeeway), jwt.WithStrictDecoding()),
	}, nil
}

// tokenIssuer is the external issuer as the reference has it.
func (f *Front) tokenIssuer() reference.Issuer {
	if f.issuer == nil {
		return reference.Issuer{}
	}
	return reference.Issuer{TokenURL: f.issuer.discovery.tokenURL, Only: f.opts.NoBuiltinIssuer}
}

// run keeps up with the issuer's keys until ctx ends.
func (i *issuer) run(ctx context.Context) {
	defer i.discovery.client.CloseIdleConnections()
	i.keys.run(ctx)
}

// verify checks a token as RFC 9068 §4 and RFC 8725 have it. It returns
// errKeysUnread when there is nothing to check it with.
func (i *issuer) verify(ctx context.Context, token string) (*pass, error) {
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
	return &pass{partner: partner, scopes: knownScopes(scopesOf(claims)), expires: expires.Time, issuer: i, key: key}, nil
}

// keyOf finds the key that a token must be signed with. What the token says of
// keys besides kid (jwk, jku, x5c, x5u) counts for nothing.
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

// checkHeader refuses what no key is needed for.
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

// scopesOf reads scope (RFC 8693 §4.2) or, where there is none, scp as other
// issuers have it: a string or an array.
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

// issuerOf reads whose token it says that it is.
func issuerOf(token string) string {
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(token, &claims); err != nil {
		return ""
	}
	return claims.Issuer
}
