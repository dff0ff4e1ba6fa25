package reference_test

import (
	"bytes"
	"encoding/json"
	"intake/internal/decode"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/schema_validation"
	"github.com/pb33f/libopenapi/datamodel/high/base"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
	"github.com/pb33f/libopenapi/orderedmap"

	"intake"
	"intake/cmd/intake/internal/reference"
)

func readDocument(t *testing.T, text []byte) (libopenapi.Document, *v3.Document) {
	t.Helper()
	document, err := libopenapi.NewDocument(text)
	if err != nil {
		t.Fatal(err)
	}
	model, err := document.BuildV3Model()
	if err != nil {
		t.Fatal(err)
	}
	return document, &model.Model
}

func TestDocument(t *testing.T) {
	t.Parallel()
	document, model := readDocument(t, reference.Document())
	if document.GetVersion() != "3.1.0" {
		t.Errorf("it is of OpenAPI %s", document.GetVersion())
	}
	checkDocument(t, document)
	if len(model.Servers) != 1 || model.Servers[0].URL != "/" {
		t.Error("its server is another one than the one that it comes from")
	}
}

// Each endpoint can be answered what the contract says.
func TestDocument_Statuses(t *testing.T) {
	t.Parallel()
	const asked = "200 401 403 404 429 431 500 503"
	want := map[string]string{
		"createClients": "200 202 400 401 403 408 409 413 415 422 429 431 500 503",
		"checkStatus":   asked, "getRecord": asked, "getRecordCalledReconcile": asked,
		"reconcile": "200 400 401 403 408 413 415 429 431 500 503",
	}
	got := make(map[string]string)
	_, model := readDocument(t, reference.Document())
	for _, item := range model.Paths.PathItems.FromOldest() {
		for _, operation := range item.GetOperations().FromOldest() {
			if want[operation.OperationId] != "" {
				got[operation.OperationId] = strings.Join(slices.Sorted(operation.Responses.Codes.KeysFromOldest()),
					" ")
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the contract's statuses (-) and the document's (+) differ:\n%s", diff)
	}
}

// Generators make a float of a number that has no format, and nothing of use of a
// value without a type, or of one of several shapes.
func TestDocument_Generators(t *testing.T) {
	t.Parallel()
	_, model := readDocument(t, reference.Document())
	amount := model.Components.Schemas.GetOrZero("RevenueClaim").Schema().Properties.GetOrZero("total_amount").Schema()
	if amount.Format != "decimal" || len(amount.Type) != 1 || amount.Type[0] != "number" {
		t.Errorf("an amount is %v, of format %q", amount.Type, amount.Format)
	}
	requests := []string{"Batch", "Item", "Entries", "RevenueClaim"}
	for name, proxy := range model.Components.Schemas.FromOldest() {
		if slices.Contains(requests, name) {
			continue
		}
		schema := proxy.Schema()
		if len(schema.OneOf)+len(schema.AnyOf)+len(schema.AllOf) > 0 {
			t.Errorf("%s is not flat", name)
		}
		for property, proxy := range schema.Properties.FromOldest() {
			p := proxy.Schema()
			if len(p.OneOf)+len(p.AnyOf)+len(p.AllOf) > 0 || p.Const != nil || len(p.Type) != 1 && property != "data" {
				t.Errorf("%s.%s has no one type", name, property)
			}
		}
	}
}

func checkDocument(t *testing.T, document libopenapi.Document) {
	t.Helper()
	v, errs := validator.NewValidator(document)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if ok, errs := v.ValidateDocument(); !ok {
		for _, err := range errs {
			t.Errorf("%s: %s %v", err.Message, err.Reason, err.SchemaValidationErrors)
		}
	}
}

// Where another issuer gives tokens, the document says where, and the page may ask
// there, and nowhere else. An address that would change the policy counts for nothing.
func TestHandlers_Issuer(t *testing.T) {
	t.Parallel()
	const endpoint = "https://login.example:8443/realms/a%22b/token?x=1"
	for name, test := range map[string]struct {
		address   string
		only      bool
		own, also string // token endpoints
		connect   string
	}{
		"both":            {endpoint, false, "/oauth/token", endpoint, "'self' https://login.example:8443"},
		"only":            {endpoint, true, endpoint, "", "'self' https://login.example:8443"},
		"this machine":    {"http://[::1]:9/t", true, "http://[::1]:9/t", "", "'self' http://[::1]:9"},
		"not known":       {"", true, "/oauth/token", "", "'self'"},
		"a policy":        {"https://a;script-src", true, "/oauth/token", "", "'self'"},
		"a list":          {"https://a,b/", true, "/oauth/token", "", "'self'"},
		"any":             {"https://*/", true, "/oauth/token", "", "'self'"},
		"another scheme":  {"javascript:alert(1)", true, "/oauth/token", "", "'self'"},
		"another's lines": {"https://a/\n    b: c", true, "/oauth/token", "", "'self'"},
	} {
		t.Run(name, func(t *testing.T) {
			address := ""
			handlers := reference.Handlers(reference.Issuer{TokenURL: func() string { return address },
				Only: test.only})
			get := func(path string) *httptest.ResponseRecorder {
				w := httptest.NewRecorder()
				handlers[path](w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
				return w
			}
			before := get("/openapi.yaml")
			if !bytes.Equal(before.Body.Bytes(), reference.Document()) {
				t.Error("before the endpoint is known, the document is another one")
			}
			address = test.address
			after := get("/openapi.yaml")
			if known := test.own != "/oauth/token" ||
				test.also != ""; known != (after.Header().Get("Etag") != before.Header().Get("Etag")) {
				t.Errorf("the ETag is %s, and was %s", after.Header().Get("Etag"), before.Header().Get("Etag"))
			}
			document, model := readDocument(t, after.Body.Bytes())
			checkDocument(t, document)
			got := map[string]string{}
			for name, scheme := range model.Components.SecuritySchemes.FromOldest() {
				if scheme.Flows != nil {
					got[name] = scheme.Flows.ClientCredentials.TokenUrl
				}
			}
			if got["oauth2"] != test.own || got["external"] != test.also {
				t.Errorf("the token endpoints are %v", got)
			}
			create := model.Paths.PathItems.GetOrZero("/api/v1/clients").Post.Security
			if want := len(got); len(create) != want {
				t.Errorf("of %d schemes, %d let in", want, len(create))
			}
			if policy := get("/docs").Header().Get("Content-Security-Policy"); !strings.Contains(policy,
				"; connect-src "+test.connect+"; ") {
				t.Errorf("the policy is %s", policy)
			}
		})
	}
}

// Each example of a request can be read, and is what its schema says, as is each
// example of an answer.
func TestDocument_Examples(t *testing.T) {
	t.Parallel()
	_, model := readDocument(t, reference.Document())
	requests, answers := 0, 0
	for path, item := range model.Paths.PathItems.FromOldest() {
		for method, operation := range item.GetOperations().FromOldest() {
			where := method + " " + path
			if operation.RequestBody != nil {
				requests += eachExample(t, operation.RequestBody.Content, func(mediaType, name, text string,
					schema *base.Schema) {
					checkRequest(t, where+" "+name, mediaType, text, schema)
				})
			}
			for status, response := range operation.Responses.Codes.FromOldest() {
				answers += checkAnswers(t, where+" "+status, response)
			}
		}
	}
	for name, response := range model.Components.Responses.FromOldest() {
		answers += checkAnswers(t, name, response)
	}
	if requests < 6 || answers < 30 {
		t.Errorf("there are %d examples of requests and %d of answers only", requests, answers)
	}
}

// eachExample calls check with each example as JSON text, or as text if it isn't
// JSON, and counts them.
func eachExample(t *testing.T, contents *orderedmap.Map[string, *v3.MediaType], check func(mediaType, name, text string,
	schema *base.Schema)) (n int) {
	t.Helper()
	for mediaType, content := range contents.FromOldest() {
		for name, example := range content.Examples.FromOldest() {
			var value any
			if err := example.Value.Decode(&value); err != nil {
				t.Fatal(err)
			}
			text, isText := value.(string)
			if !isText {
				encoded, err := json.Marshal(value)
				if err != nil {
					t.Fatal(err)
				}
				text = string(encoded)
			}
			check(mediaType, name, text, content.Schema.Schema())
			n++
		}
	}
	return n
}

func checkRequest(t *testing.T, where, mediaType, text string, schema *base.Schema) {
	t.Helper()
	partner := &intake.Partner{ID: 1, Name: "acme", Currency: "GBP"}
	switch mediaType {
	case "application/json":
		if _, err := decode.Batch([]byte(text), partner, time.Now()); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	case "application/x-ndjson":
		for line := range strings.Lines(text) {
			_, err := decode.Batch([]byte(line), partner, time.Now())
			if (err != nil) != (line[0] != '[') {
				t.Errorf("%s: %s: %v", where, line, err)
			}
		}
		return
	}
	checkSchema(t, where, text, schema)
}

func checkAnswers(t *testing.T, where string, response *v3.Response) int {
	t.Helper()
	return eachExample(t, response.Content, func(mediaType, name, text string, schema *base.Schema) {
		if strings.Contains(mediaType, "json") && mediaType != "application/x-ndjson" {
			checkSchema(t, where+" "+name, text, schema)
		}
	})
}

func checkSchema(t *testing.T, where, text string, schema *base.Schema) {
	t.Helper()
	if ok, errs := schema_validation.NewSchemaValidator().ValidateSchemaString(schema, text); !ok {
		for _, err := range errs {
			t.Errorf("%s: %s: %v", where, err.Reason, err.SchemaValidationErrors)
		}
	}
}

// What is served is kept by browsers, and packed for those that take it so.
func TestHandlers(t *testing.T) {
	t.Parallel()
	for path, serve := range reference.Handlers(reference.Issuer{}) {
		get := func(headers ...string) *httptest.ResponseRecorder {
			request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
			for i := 0; i < len(headers); i += 2 {
				request.Header.Set(headers[i], headers[i+1])
			}
			w := httptest.NewRecorder()
			serve(w, request)
			return w
		}
		plain := get()
		tag := plain.Header().Get("Etag")
		if plain.Code != http.StatusOK || plain.Body.Len() == 0 || tag == "" ||
			plain.Header().Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %d with %d bytes: %v", path, plain.Code, plain.Body.Len(), plain.Header())
		}
		if again := get("If-None-Match", tag); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
			t.Errorf("%s again: %d with %d bytes", path, again.Code, again.Body.Len())
		}
		if isPage := path == "/docs"; isPage != (plain.Header().Get("Content-Security-Policy") != "") {
			t.Errorf("%s has the policy %q", path, plain.Header().Get("Content-Security-Policy"))
		}
		if bytes.Contains(plain.Body.Bytes(), []byte("sourceMappingURL=")) && path == "/docs/scalar.js" {
			t.Errorf("%s names a map that isn't there", path)
		}
	}
}

func TestHandlers_Packed(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(reference.Handlers(reference.Issuer{})["/docs/scalar.js"])
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	size := map[bool]int{}
	for accept, packed := range map[string]bool{"gzip": true, "deflate, GZIP;q=0.5": true, "*": true, "": false,
		"br": false, "gzip;q=0": false, "gzip; q=0.00": false} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept-Encoding", accept)
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || (response.Header.Get("Content-Encoding") == "gzip") != packed ||
			response.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%q: %v %v", accept, response.Header, err)
		}
		size[packed] = len(body)
	}
	if size[true] >= size[false]/3 {
		t.Errorf("%d bytes, %d packed", size[false], size[true])
	}
}
