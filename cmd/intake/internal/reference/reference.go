// Package reference is the contract for machines, an OpenAPI document, and the
// page that shows it to people and lets them try it. It asks no other server: the
// program of the page is part of the binary.
package reference

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
)

//go:embed openapi.yaml
var document []byte

//go:embed docs.html
var page []byte

// script is Scalar's API reference; scalar/update fetches it.
//
//go:embed scalar/scalar.js.gz
var script []byte

// pagePolicy lets the page run its program, talk to the server that it came from,
// and to the one that gives tokens, and nothing else. Scalar sets styles in place,
// and draws images from data.
func pagePolicy(tokens string) string {
	if tokens != "" {
		tokens = " " + tokens
	}
	return "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self'" + tokens + "; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// Document returns the OpenAPI document, in YAML.
func Document() []byte { return bytes.Clone(document) }

// Handlers returns the handlers by path, to GET and HEAD.
func Handlers(issuer Issuer) map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"/openapi.yaml":   serveDocument(issuer),
		"/docs":           servePage(issuer),
		"/docs/scalar.js": serveScript(),
	}
}

func servePage(issuer Issuer) http.HandlerFunc {
	shown := newAsset("text/html; charset=utf-8", page)
	return func(w http.ResponseWriter, r *http.Request) {
		_, origin := issuer.tokenURL()
		w.Header().Set("Content-Security-Policy", pagePolicy(origin))
		shown.serve(w, r)
	}
}

// serveScript serves the script as it is kept, or unpacked to the few that don't
// take it so.
func serveScript() http.HandlerFunc {
	const contentType = "text/javascript; charset=utf-8"
	packed := newAsset(contentType, script)
	unpacked := sync.OnceValue(func() *asset { return newAsset(contentType, gunzip(script)) })
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept-Encoding")
		if acceptsGzip(r.Header) {
			w.Header().Set("Content-Encoding", "gzip")
			packed.serve(w, r)
			return
		}
		unpacked().serve(w, r)
	}
}

func gunzip(packed []byte) []byte {
	reader, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		panic(err) // it is part of the binary
	}
	unpacked, err := io.ReadAll(reader)
	if err != nil {
		panic(err)
	}
	return unpacked
}

// acceptsGzip reports whether a response may be compressed (RFC 9110 §12.5.3).
func acceptsGzip(header http.Header) bool {
	for coding := range strings.SplitSeq(strings.Join(header.Values("Accept-Encoding"), ","), ",") {
		name, weight, _ := strings.Cut(coding, ";")
		name, weight = strings.TrimSpace(name), strings.ReplaceAll(weight, " ", "")
		if strings.EqualFold(name, "gzip") || name == "*" {
			return strings.Trim(strings.TrimPrefix(weight, "q="), "0.") != "" || weight == ""
		}
	}
	return false
}

// An asset is a file that only another version of the binary changes.
type asset struct {
	contentType, etag string
	body              []byte
}

func newAsset(contentType string, body []byte) *asset {
	hash := sha256.Sum256(body)
	return &asset{contentType: contentType, etag: `"` + base64.RawURLEncoding.EncodeToString(hash[:12]) + `"`,
		body: body}
}

func (a *asset) serve(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Type", a.contentType)
	header.Set("Etag", a.etag)
	header.Set("Cache-Control", "no-cache")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.body))
}
