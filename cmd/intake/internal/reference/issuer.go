package reference

import (
	"bytes"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"sync/atomic"
)

// An Issuer gives tokens besides the server that the document is about, or instead
// of it. There is none when it is zero.
type Issuer struct {
	// TokenURL returns its token endpoint, which may become known late, and change;
	// "" while there is none.
	TokenURL func() string
	// Only is set if the server issues no tokens itself.
	Only bool
}

// tokenURL returns the token endpoint, if browsers can be sent there: its host goes
// into a header.
func (i Issuer) tokenURL() (address, origin string) {
	if i.TokenURL == nil {
		return "", ""
	}
	address = i.TokenURL()
	parsed, err := url.Parse(address)
	if err != nil || parsed.Scheme != "https" && parsed.Scheme != "http" || !plainHost.MatchString(parsed.Host) {
		return "", ""
	}
	return address, parsed.Scheme + "://" + parsed.Host
}

var plainHost = regexp.MustCompile(`^([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?$`)

// What of the document is about who gives tokens.
var (
	// Another issuer may take credentials in Authorization only (RFC 6749 §2.3.1).
	ownTokenURL = []byte("          tokenUrl: /oauth/token\n          x-scalar-credentials-location: body\n")
	afterOwn    = []byte("    basic:\n      type: http\n")
	required    = regexp.MustCompile(`(?m)^( *)- oauth2: (\[.*\])$`)
)

// documentFor returns the document with another token endpoint, instead of the
// server's own or as another scheme.
func documentFor(tokenURL string, only bool) []byte {
	if tokenURL == "" {
		return document
	}
	quoted := strconv.QuoteToASCII(tokenURL)
	if only {
		return bytes.Replace(document, ownTokenURL, []byte("          tokenUrl: "+quoted+"\n"), 1)
	}
	scheme := `    external:
      type: oauth2
      description: A client id and a secret that another issuer has given. Its token is used like one of this server.
      x-default-scopes: ["clients:write", "clients:read"]
      flows:
        clientCredentials:
          tokenUrl: ` + quoted + `
          scopes:
            clients:write: create partner clients
            clients:read: ask what became of batches, and what is saved
`
	both := bytes.Replace(document, afterOwn, append([]byte(scheme), afterOwn...), 1)
	return required.ReplaceAll(both, []byte("$0\n$1- external: $2"))
}

func serveDocument(issuer Issuer) http.HandlerFunc {
	type version struct {
		tokenURL string
		*asset
	}
	var last atomic.Pointer[version]
	return func(w http.ResponseWriter, r *http.Request) {
		tokenURL, _ := issuer.tokenURL()
		shown := last.Load()
		if shown == nil || shown.tokenURL != tokenURL {
			shown = &version{tokenURL, newAsset("application/yaml", documentFor(tokenURL, issuer.Only))}
			last.Store(shown)
		}
		shown.serve(w, r)
	}
}
