package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"golang.org/x/oauth2"

	"intake/cmd/intake/internal/reference"
)

// newDocumentValidator holds requests and answers to the API's document.
func newDocumentValidator(t *testing.T) validator.Validator {
	t.Helper()
	doc, err := libopenapi.NewDocument(reference.Document())
	if err != nil {
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(doc)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return v
}

// A checkedTransport holds each answer to the document, and each request of which
// nothing was found to be wrong.
type checkedTransport struct {
	t    *testing.T
	base http.RoundTripper

	mu        sync.Mutex
	validator validator.Validator
	seen      map[string]bool // method, path and status
	requests  int             // that were held to the document
}

func (c *checkedTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	var body []byte
	if request.Body != nil {
		var err error
		if body, err = io.ReadAll(request.Body); err != nil {
			return nil, err
		}
		request.Body = io.NopCloser(bytes.NewReader(body))
	}
	response, err := c.base.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(text))
	c.check(request, body, response, text)
	response.Body = io.NopCloser(bytes.NewReader(text))
	return response, nil
}

func (c *checkedTransport) check(request *http.Request, body []byte, response *http.Response, text []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[fmt.Sprint(request.Method, " ", request.URL.Path, " ", response.StatusCode)] = true
	request = request.Clone(request.Context())
	request.Body = io.NopCloser(bytes.NewReader(body))
	if response.StatusCode < 300 && request.URL.Path == "/api/v1/clients" && !bytes.Contains(text, []byte(`"code":"invalid"`)) && !bytes.Contains(text, []byte(`_in_request"`)) {
		c.requests++
		if valid, errs := c.validator.ValidateHttpRequest(request); !valid {
			for _, err := range errs {
				c.t.Errorf("%s %s %.300s: %v %v", request.Method, request.URL.Path, body, err, err.SchemaValidationErrors)
			}
		}
		request.Body = io.NopCloser(bytes.NewReader(body))
	}
	if valid, errs := c.validator.ValidateHttpResponse(request, response); !valid {
		for _, err := range errs {
			c.t.Errorf("%s %s is answered %d %.300s: %v %v", request.Method, request.URL.Path, response.StatusCode, text, err, err.SchemaValidationErrors)
		}
	}
}

// The conformance run, and a request for all else that there is, held to the
// document.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	v := newDocumentValidator(t)
	s := startStack(t, stackOptions{})
	f := s.fronts[0]
	transport := &checkedTransport{t: t, base: http.DefaultTransport, validator: v, seen: make(map[string]bool)}
	checked := func(partner, secret string) *http.Client {
		client := s.client(t.Context(), f, partner, secret)
		client.Transport.(*oauth2.Transport).Base = transport
		return client
	}
	for _, c := range readCases(t) {
		partner := "case-" + c.Name
		secret := s.addPartner(t, partner)
		if err := f.front.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		client := checked(partner, secret)
		if len(c.Saved) > 0 {
			if _, err := post(t.Context(), client, f, join(c.Saved), ""); err != nil {
				t.Fatal(err)
			}
		}
		for _, prefer := range []string{"handling=validate", "respond-async", "return=minimal"} {
			a, err := post(t.Context(), client, f, c.body(), prefer)
			if err != nil {
				t.Fatal(err)
			}
			if a.ID != "" {
				if _, err := check(t.Context(), client, f, a.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		call(t.Context(), t, client, http.MethodPost, f.url()+"/api/v1/clients/reconcile", string(c.body()), nil)
	}
	client := checked("acme", s.secret)
	plain := &http.Client{Transport: transport}
	for _, request := range []struct {
		client       *http.Client
		method, path string
		body         string
		status       int
	}{
		{client, "POST", "/api/v1/clients", "[" + itemOf("a", 1) + "]", 200},
		{client, "GET", "/api/v1/clients/a", "", 200},
		{client, "GET", "/api/v1/clients/b", "", 404},
		{client, "GET", "/api/v1/clients/status/01a208f5-f9be-79d4-a8a5-3f955255d837", "", 404},
		{plain, "GET", "/api/v1/clients/a", "", 401},
		{plain, "POST", "/api/v1/clients", "[]", 401},
		{plain, "POST", "/oauth/token", "{}", 401},
		{plain, "GET", "/.well-known/jwks.json", "", 200},
		{plain, "GET", "/.well-known/oauth-authorization-server", "", 200},
		{plain, "GET", "/livez", "", 200},
		{plain, "GET", "/readyz", "", 200},
		{plain, "GET", "/openapi.yaml", "", 200},
		{plain, "GET", "/docs", "", 200},
	} {
		if status := call(t.Context(), t, request.client, request.method, f.url()+request.path, request.body, nil); status != request.status {
			t.Errorf("%s %s is answered %d, want %d", request.method, request.path, status, request.status)
		}
	}
	if n := len(transport.seen); n < 20 || transport.requests < 10 {
		t.Errorf("only %d kinds of answers were seen, and %d requests", n, transport.requests)
	}
}
