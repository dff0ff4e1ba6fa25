package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/pb33f/libopenapi-validator/content"
	validation "github.com/pb33f/libopenapi-validator/errors"
	"github.com/pb33f/libopenapi-validator/schema_validation"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
	"github.com/pb33f/libopenapi/orderedmap"
	"golang.org/x/oauth2"

	"intake"
	"intake/cmd/intake/internal/reference"
	"intake/internal/decode"
	"intake/internal/local/localtest"
)

// A documented transport holds what is sent and answered against the document.
type documented struct {
	t         *testing.T
	model     *v3.Document
	codes     []string // of problems
	mu        sync.Mutex
	validator validator.Validator // guarded by mu
	pairs     int                 // that were checked, guarded by mu
}

// newDocumented returns a transport; the test fails if nothing goes through it.
func newDocumented(t *testing.T) *documented {
	t.Helper()
	document, err := libopenapi.NewDocument(reference.Document())
	if err != nil {
		t.Fatal(err)
	}
	model, err := document.BuildV3Model()
	if err != nil {
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(document, config.WithURLEncodedBodyValidation(),
		config.WithBodyDecoder("application/x-ndjson", content.TextDecoder())) // its lines are checked by checkLines
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	d := &documented{t: t, model: &model.Model, validator: v}
	code := model.Model.Components.Schemas.GetOrZero("Problem").Schema().Properties.GetOrZero("code").Schema()
	if err := code.Extensions.GetOrZero("x-extensible-enum").Decode(&d.codes); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if d.pairs == 0 {
			t.Error("nothing was held against the document")
		}
	})
	return d
}

// context has clients of package oauth2 use the transport.
func (d *documented) context(ctx context.Context) context.Context {
	return context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: d})
}

// RoundTrip implements http.RoundTripper.
func (d *documented) RoundTrip(r *http.Request) (*http.Response, error) {
	var sent []byte
	if r.Body != nil {
		var err error
		if sent, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body.Close()
	}
	request := r.Clone(r.Context())
	request.Body = io.NopCloser(bytes.NewReader(sent))
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	answered, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(answered))
	d.check(r, sent, response, answered)
	return response, nil
}

func (d *documented) check(r *http.Request, sent []byte, response *http.Response, answered []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pairs++
	if response.Header.Get("Content-Type") == "application/x-ndjson" {
		d.checkLines(answered)
	}
	seen := *response
	seen.Body = io.NopCloser(bytes.NewReader(answered))
	if ok, errs := d.validator.ValidateHttpResponse(r, &seen); !ok {
		d.report(r, response, answered, "answer", errs)
	}
	d.checkMeaning(response, answered)
	if response.StatusCode >= 400 || !isValid(r, sent, answered) {
		return
	}
	request := r.Clone(r.Context())
	request.Body = io.NopCloser(bytes.NewReader(sent))
	if ok, errs := d.validator.ValidateHttpRequestSync(request); !ok {
		d.report(r, response, answered, "request", errs)
	}
}

func (d *documented) report(r *http.Request, response *http.Response, answered []byte, what string,
	errs []*validation.ValidationError) {
	d.t.Errorf("%s %s, answered %d %.300s: the %s is not as documented", r.Method, r.URL.Path, response.StatusCode,
		answered, what)
	for _, err := range errs {
		d.t.Errorf("  %s: %s %v", err.Message, err.Reason, err.SchemaValidationErrors)
	}
}

// checkLines checks the answers of a stream.
func (d *documented) checkLines(answered []byte) {
	schemas := schema_validation.NewSchemaValidator()
	for line := range strings.Lines(string(answered)) {
		name := "BatchAnswer"
		if strings.Contains(line, `"type":"/problems/`) {
			name = "Problem"
		}
		schema := d.model.Components.Schemas.GetOrZero(name).Schema()
		if ok, errs := schemas.ValidateSchemaString(schema, line); !ok {
			d.t.Errorf("%s is not as documented: %s", line, errs[0].Reason)
		}
		d.checkMeaning(nil, []byte(line))
	}
}

// verdicts are the states, codes and texts that go together. The document says it in
// words: a schema that does is one of which generators make nothing of use.
var verdicts = regexp.MustCompile(`(?s)^(` + strings.Join([]string{
	`Completed (saved|would_be_saved) `,
	`Duplicate duplicate_in_request duplicate of item [0-9]+ in this request`,
	`Duplicate duplicate_of_saved already saved with (the same data|different data; the saved record was not changed)`,
	`Conflict conflict_in_request conflict: items [0-9]+(, [0-9]+)* and [0-9]+( more)? share partner_client_id ".*"…? but their data differs`,
	`Failed invalid .+: .+`,
	`Failed refused the data store refused this item: .+`,
	`Pending pending `,
}, "|") + `)$`)

// checkMeaning checks what the document says in words of an answer to a batch, or of
// a line of a stream, and of a problem.
func (d *documented) checkMeaning(response *http.Response, text []byte) {
	var a struct {
		Type, Code string
		ID         *string `json:"status_check_id"`
		Status     any
		Result     []struct {
			Status struct {
				State, Code string
				Text        string `json:"validation_errors"`
			}
		}
	}
	if json.Unmarshal(text, &a) != nil {
		return
	}
	if strings.HasPrefix(a.Type, "/problems/") && (a.Type != "/problems/"+a.Code || !slices.Contains(d.codes, a.Code)) {
		d.t.Errorf("%s: the code or the type is not documented", text)
	}
	if (a.Status == "Pending" || response != nil && response.StatusCode == http.StatusAccepted) &&
		(a.Status != "Pending" || a.ID == nil) && a.Result != nil {
		d.t.Errorf("%s: pending, with no place to look", text)
	}
	for _, item := range a.Result {
		if v := item.Status; v.State != "" && !verdicts.MatchString(v.State+" "+v.Code+" "+v.Text) {
			d.t.Errorf("%+v is not as documented", v)
		}
	}
}

// isValid reports whether nothing is wrong with any item of a request.
func isValid(r *http.Request, sent, answered []byte) bool {
	switch r.URL.Path {
	case "/api/v1/clients":
		items, err := decode.Batch(sent, &intake.Partner{ID: 1, Name: "any", Currency: "GBP"}, time.Now())
		for _, item := range items {
			if item.Errors != "" {
				return false
			}
		}
		return err == nil
	case "/api/v1/clients/reconcile":
		return r.Method != http.MethodPost || bytes.Contains(answered, []byte(`"invalid":0,`))
	}
	return true
}

// examples returns the examples of requests and of answers, by their names.
func (d *documented) examples() (requests, answers map[string]any) {
	requests, answers = make(map[string]any), make(map[string]any)
	read := func(into map[string]any, contents *orderedmap.Map[string, *v3.MediaType]) {
		for _, mediaType := range contents.FromOldest() {
			for name, example := range mediaType.Examples.FromOldest() {
				var value any
				if err := example.Value.Decode(&value); err != nil {
					d.t.Fatal(err)
				}
				into[name] = value
			}
		}
	}
	for _, item := range d.model.Paths.PathItems.FromOldest() {
		for _, operation := range item.GetOperations().FromOldest() {
			if operation.RequestBody != nil {
				read(requests, operation.RequestBody.Content)
			}
			for _, response := range operation.Responses.Codes.FromOldest() {
				read(answers, response.Content)
			}
		}
	}
	for _, response := range d.model.Components.Responses.FromOldest() {
		read(answers, response.Content)
	}
	return requests, answers
}

// The answers that the document shows are those that its requests get.
func TestOpenAPI_Examples(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	f, d := s.fronts[0], newDocumented(t)
	requests, answers := d.examples()
	client := s.client(d.context(t.Context()), f, "acme", s.secret)
	const create, minimal = "/api/v1/clients", "return=minimal"
	first := "/api/v1/clients/" + requests["one"].([]any)[0].(map[string]any)["partner_client_id"].(string)
	later := []any{map[string]any{"partner_client_id": "later", "entity_type": "SoleTrader"}}
	statusURI := ""
	for _, step := range []struct {
		answer  string // its name; none if the document shows none
		method  string
		path    string
		prefer  string
		request any
		status  int
	}{
		{"dry_run", "POST", create, "handling=validate, return=minimal", requests["one"], 200},
		{"one", "POST", create, "", requests["one"], 200},
		{"mixed", "POST", create, "", requests["mixed"], 200},
		{"", "POST", create, "", requests["days"], 200},
		{"stream", "POST", create, "", requests["stream"], 200},
		{"record", "GET", first, "", nil, 200},
		{"entries", "POST", "/api/v1/clients/reconcile", "", requests["entries"], 200},
		{"metadata", "GET", "/.well-known/oauth-authorization-server", "", nil, 200},
		{"", "GET", "/.well-known/jwks.json", "", nil, 200},
		{"", "GET", "/livez", "", nil, 200},
		{"", "GET", "/readyz", "", nil, 200},
		{"", "GET", "/openapi.yaml", "", nil, 200},
		{"", "GET", "/docs", "", nil, 200},
		{"", "GET", "/docs/scalar.js", "", nil, 200},
		{"pending", "POST", create, "respond-async, return=minimal", later, 202},
	} {
		status, got := exchange(t, client, step.method, f.url()+step.path, step.prefer, step.request)
		if status != step.status {
			t.Errorf("%s %s: %d", step.method, step.path, status)
		}
		if step.answer == "" {
			continue
		}
		if diff := cmp.Diff(masked(answers[step.answer]), masked(got)); diff != "" {
			t.Errorf("%s: the example (-) and the answer (+) differ:\n%s", step.answer, diff)
		}
		if step.answer == "pending" {
			statusURI = got.(map[string]any)["status_check_uri"].(string)
		}
	}
	localtest.Eventually(t, "the answer to a repeat is the example", func() bool {
		_, got := exchange(t, client, "POST", f.url()+create, minimal, requests["one"])
		return cmp.Equal(masked(answers["minimal"]), masked(got)) // once it is known to be seen, nothing is queued
	})
	localtest.Eventually(t, "the status is the example", func() bool {
		_, got := exchange(t, client, "GET", f.url()+statusURI, minimal, nil)
		return cmp.Equal(masked(answers["final"]), masked(got))
	})
}

// exchange makes a request, with JSON unless the body is a text: then it is a
// stream. It gives the answer as JSON, if it is, and as text otherwise.
func exchange(t *testing.T, client *http.Client, method, url, prefer string, body any) (status int, answer any) {
	t.Helper()
	text, isText := body.(string)
	if body != nil && !isText {
		encoded, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		text = string(encoded)
	}
	headers := []string{"Content-Type", "application/json"}
	if isText {
		headers[1] = "application/x-ndjson"
	}
	if prefer != "" {
		headers = append(headers, "Prefer", prefer)
	}
	return ask(t, client, method, url, text, headers...)
}

// ask makes a request with headers as name, value, ….
func ask(t *testing.T, client *http.Client, method, url, body string, headers ...string) (status int, answer any) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if json.Unmarshal(got, &answer) != nil {
		return response.StatusCode, string(got)
	}
	return response.StatusCode, answer
}

// masked returns an answer without what is another one each time. Numbers are
// floats, as package json has them.
func masked(value any) any {
	switch value := value.(type) {
	case string:
		if lines := strings.Split(value, "\n"); len(lines) > 1 {
			list := make([]any, len(lines))
			for i, line := range lines {
				_ = json.Unmarshal([]byte(line), &list[i])
				list[i] = masked(list[i])
			}
			return list
		}
		return strings.ReplaceAll(value, "https://intake.example", "http://intake.test")
	case int:
		return float64(value)
	case []any:
		list := make([]any, len(value))
		for i := range value {
			list[i] = masked(value[i])
		}
		return list
	case map[string]any:
		object := make(map[string]any, len(value))
		for name := range value {
			object[name] = masked(value[name])
			switch name {
			case "status_check_id", "status_check_uri", "saved_at":
				object[name] = "…"
			}
		}
		return object
	}
	return value
}

// The problems that the document shows are those that a front tells.
func TestOpenAPI_Problems(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	f, d := s.fronts[0], newDocumented(t)
	_, answers := d.examples()
	bare := &http.Client{Transport: d}
	client := func(scopes ...string) *http.Client {
		c := credentials(f.url(), "acme", s.secret)
		c.Scopes = scopes
		return c.Client(d.context(t.Context()))
	}
	both, reader, writer := client(), client("clients:read"), client("clients:write")
	const create, typed = "/api/v1/clients", "application/json"
	if status, _ := ask(t, both, "POST", f.url()+create, body("once"), "Content-Type", typed, "Idempotency-Key",
		"once"); status != 200 {
		t.Fatal(status)
	}
	claimed := sha256.Sum256([]byte(body("a")))
	acme := s.count(t, "select id from partners where name = 'acme'")
	if _, err := f.store.Reserve(t.Context(), int32(acme), "running", claimed, uuid.Must(uuid.NewV7()),
		time.Minute); err != nil {
		t.Fatal(err)
	}
	form := func(values ...string) string {
		form := url.Values{"client_id": {"acme"}, "client_secret": {s.secret}}
		for i := 0; i < len(values); i += 2 {
			form.Set(values[i], values[i+1])
		}
		return form.Encode()
	}
	const formType = "application/x-www-form-urlencoded"
	for _, c := range []struct {
		example string
		status  int
		client  *http.Client
		method  string
		path    string
		body    string
		headers []string
	}{
		{"no_token", 401, bare, "POST", create, body("a"), []string{"Content-Type", typed}},
		{"bad_token", 401, bare, "POST", create, body("a"), []string{"Content-Type", typed, "Authorization",
			"Bearer x"}},
		{"no_write", 403, reader, "POST", create, body("a"), []string{"Content-Type", typed}},
		{"no_read", 403, writer, "GET", "/api/v1/clients/a", "", nil},
		{"not_json", 400, both, "POST", create, `[`, []string{"Content-Type", typed}},
		{"not_an_array", 400, both, "POST", create, `{}`, []string{"Content-Type", typed}},
		{"empty_array", 400, both, "POST", create, `[]`, []string{"Content-Type", typed}},
		{"bad_key", 400, both, "POST", create, body("a"), []string{"Content-Type", typed, "Idempotency-Key", "a b"}},
		{"other_body", 422, both, "POST", create, body("twice"), []string{"Content-Type", typed, "Idempotency-Key",
			"once"}},
		{"still_running", 409, both, "POST", create, body("a"), []string{"Content-Type", typed, "Idempotency-Key",
			"running"}},
		{"too_many_items", 413, both, "POST", create, "[" + strings.Repeat("1,", 10_000) + "1]",
			[]string{"Content-Type", typed}},
		{"too_large", 413, both, "POST", create, strings.Repeat(" ", 32<<20+1), []string{"Content-Type", typed}},
		{"other_type", 415, both, "POST", create, body("a"), []string{"Content-Type", "text/csv"}},
		{"other_type_of_entries", 415, both, "POST", create + "/reconcile", `["a"]`,
			[]string{"Content-Type", "application/x-ndjson"}},
		{"other_encoding", 415, both, "POST", create, body("a"), []string{"Content-Type", typed, "Content-Encoding",
			"br"}},
		{"no_batch", 404, both, "GET", "/api/v1/clients/status/01a208f5-f9be-79d4-a8a5-3f955255d837", "", nil},
		{"no_record", 404, both, "GET", "/api/v1/clients/nobody", "", nil},
		{"no_record", 404, both, "GET", "/api/v1/clients/reconcile", "", nil},
		{"no_problem", 404, bare, "GET", "/problems/unheard_of", "", nil},
		{"no_grant_type", 400, bare, "POST", "/oauth/token", form(), []string{"Content-Type", formType}},
		{"other_grant_type", 400, bare, "POST", "/oauth/token", form("grant_type", "password"),
			[]string{"Content-Type", formType}},
		{"other_scope", 400, bare, "POST", "/oauth/token", form("grant_type", "client_credentials", "scope", "x"),
			[]string{"Content-Type", formType}},
		{"wrong_secret", 401, bare, "POST", "/oauth/token", form("client_secret", "x"),
			[]string{"Content-Type", formType}},
	} {
		status, got := ask(t, c.client, c.method, f.url()+c.path, c.body, c.headers...)
		if diff := cmp.Diff(masked(answers[c.example]), masked(got)); diff != "" || status != c.status {
			t.Errorf("%s: answered %d; the example (-) and the answer (+) differ:\n%s", c.example, status, diff)
		}
	}
}

// What a partner is told that sends too much, and who guesses secrets, is as
// documented.
func TestOpenAPI_TooMany(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	f, d := s.fronts[0], newDocumented(t)
	_, answers := d.examples()
	limits := func(args ...string) {
		t.Helper()
		outputOf(t, 0, append([]string{"partner", "--postgres-url=" + s.flags.PostgresURL, "set", "acme"}, args...)...)
		if err := f.auth.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want := func(response *http.Response, status int, example string) {
		t.Helper()
		defer response.Body.Close()
		var got any
		if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(masked(answers[example]), masked(got)); diff != "" || response.StatusCode != status ||
			response.Header.Get("Retry-After") == "" {
			t.Errorf("answered %d %v; the example (-) and the answer (+) differ:\n%s", response.StatusCode,
				response.Header, diff)
		}
	}
	const create = "/api/v1/clients"
	client, undocumented := s.client(d.context(t.Context()), f, "acme", s.secret), s.client(t.Context(), f, "acme",
		s.secret)
	send := func(client *http.Client, method, path, contentType string, body io.Reader) *http.Response {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, f.url()+path, body)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", contentType)
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		return response
	}

	limits("--requests=1")
	reader, stream := io.Pipe()
	streaming := send(undocumented, "POST", create, "application/x-ndjson", reader)
	for path, body := range map[string]string{create: body("a"), create + "/reconcile": `["a"]`} {
		want(send(client, "POST", path, "application/json", strings.NewReader(body)), 429, "in_flight")
	}
	for _, path := range []string{"/status/01a208f5-f9be-79d4-a8a5-3f955255d837", "/a", "/reconcile"} {
		want(send(client, "GET", create+path, "", nil), 429, "in_flight")
	}
	stream.Close()
	if _, err := io.Copy(io.Discard, streaming.Body); err != nil {
		t.Error(err)
	}
	streaming.Body.Close()

	limits("--requests=0", "--items-per-second=5000")
	first := send(client, "POST", create, "application/json", strings.NewReader(body("a")))
	first.Body.Close()
	if header := first.Header; first.StatusCode != 200 || header.Get("RateLimit-Limit") != "10000" ||
		header.Get("RateLimit-Remaining") != "9999" || header.Get("RateLimit-Reset") != "1" {
		t.Errorf("%d %v", first.StatusCode, first.Header)
	}
	most := "[" + strings.Repeat("1,", intake.MaxBatchItems-1) + "1]"
	localtest.Eventually(t, "the rate is used up", func() bool {
		response := send(undocumented, "POST", create, "application/json", strings.NewReader(most))
		defer response.Body.Close()
		return response.StatusCode == 429 && response.Header.Get("RateLimit-Remaining") != ""
	})
	want(send(client, "POST", create, "application/json", strings.NewReader(most)), 429, "rate")

	bare := &http.Client{Transport: d}
	const form = "grant_type=client_credentials&client_id=acme&client_secret=x"
	localtest.Eventually(t, "no more secrets are looked at", func() bool {
		response := send(http.DefaultClient, "POST", "/oauth/token", "application/x-www-form-urlencoded",
			strings.NewReader(form))
		defer response.Body.Close()
		return response.StatusCode == 429
	})
	want(send(bare, "POST", "/oauth/token", "application/x-www-form-urlencoded", strings.NewReader(form)), 429,
		"slow_down")
}

// What is told when nothing can be queued, or an answer needs no endpoint, is as
// documented.
func TestOpenAPI_Unavailable(t *testing.T) {
	t.Parallel()
	nats := localtest.OwnNATS(t)
	s := startStack(t, stackOptions{flags: serverFlags{NATSURL: nats.URL()}})
	f, d := s.fronts[0], newDocumented(t)
	_, answers := d.examples()
	client := s.client(d.context(t.Context()), f, "acme", s.secret)
	if err := nats.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, headers := range [][]string{{}, {"Prefer", "respond-async"}, {"Idempotency-Key", "k"}} {
		status, got := ask(t, client, "POST", f.url()+"/api/v1/clients", body("a"), append(headers, "Content-Type",
			"application/json")...)
		if diff := cmp.Diff(masked(answers["not_queued"]), masked(got)); diff != "" || status != 503 {
			t.Errorf("%v: answered %d; the example (-) and the answer (+) differ:\n%s", headers, status, diff)
		}
	}
	localtest.Eventually(t, "the front is not ready", func() bool {
		status, _ := ask(t, client, "GET", f.url()+"/readyz", "")
		return status == 503
	})
	for _, path := range []string{"/livez", "/api/v1/clients/nobody"} {
		request, err := http.NewRequestWithContext(t.Context(), "GET", f.url()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Large", strings.Repeat("x", 40<<10))
		response, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body) // its end may be a reset
		response.Body.Close()
		if response.StatusCode != 431 {
			t.Errorf("%s with large headers: %d", path, response.StatusCode)
		}
		d.check(request, nil, response, text)
	}
	for status, headers := range map[int][]string{
		206: {"Range", "bytes=0-9"},
		416: {"Range", "bytes=99999999-"},
		412: {"If-Match", `"another"`},
	} {
		if got, _ := ask(t, client, "GET", f.url()+"/openapi.yaml", "", headers...); got != status {
			t.Errorf("%v: %d, want %d", headers, got, status)
		}
	}
}
