package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"intake/internal/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newClient returns a client of a front that answers with handler. Its tokens
// live as many seconds as lifetime, and issued counts them.
func newClient(t *testing.T, lifetime int, handler http.HandlerFunc) (c *client.Client, issued *atomic.Int32) {
	t.Helper()
	issued = new(atomic.Int32)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /oauth/token", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if id, secret, _ := r.BasicAuth(); id != "acme" || secret != "secret" {
			t.Errorf("a token for %s, %s", id, secret)
		}
		fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":%d}`, issued.Add(1), lifetime)
	})
	mux.HandleFunc("/api/", handler)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return open(t, server.URL), issued
}

func open(t *testing.T, url string) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{URL: url, ClientID: "acme", ClientSecret: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// A token is kept as long as it is valid, and renewed then. One that is about
// to expire counts as expired.
func TestClient_Token(t *testing.T) {
	for _, test := range []struct {
		lifetime int
		want     int32
	}{{3600, 1}, {5, 3}} {
		c, issued := newClient(t, test.lifetime, http.NotFound)
		for range 3 {
			if _, err := c.Token(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := issued.Load(); got != test.want {
			t.Errorf("tokens of %d s: %d were issued for 3 uses, want %d", test.lifetime, got, test.want)
		}
	}
}

// A caller that waits for a token that another goroutine fetches can give up.
func TestClient_TokenCanceled(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-release
	}))
	defer server.Close()
	defer close(release)
	c := open(t, server.URL)
	first, cancelFirst := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := c.Token(first)
		ended <- err
	}()
	<-asked
	second, cancelSecond := context.WithCancel(t.Context())
	cancelSecond()
	var tokenErr *client.TokenError
	if _, err := c.Create(second, []byte("[]"), client.BatchOptions{}); !errors.Is(err, context.Canceled) ||
		!errors.As(err, &tokenErr) {
		t.Errorf("the one who waits: %v", err)
	}
	cancelFirst()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the one who fetches: %v", err)
	}
}

// A refusal is a Problem with all that the server says, whatever its form.
func TestClient_Problem(t *testing.T) {
	for name, test := range map[string]struct {
		status    int
		header    map[string]string
		body      string
		want      client.Problem
		temporary bool
		says      string
	}{
		"of a front": {
			503, map[string]string{"Content-Type": "application/problem+json", "Retry-After": "8000"},
			`{"type":"/problems/backlog","code":"backlog","title":"Service Unavailable","status":503,"detail":"too much is queued"}`,
			client.Problem{Status: 503, Code: "backlog", Title: "Service Unavailable", Detail: "too much is queued",
				RetryAfter: 8000 * time.Second},
			true, "503 Service Unavailable: too much is queued (Retry-After: 8000 s)",
		},
		"of a proxy": {
			502, map[string]string{"Content-Type": "text/html"}, "<html>",
			client.Problem{Status: 502}, true, "502 Bad Gateway",
		},
		"of something else": {
			404, map[string]string{"Content-Type": "text/plain"}, "404 page not found",
			client.Problem{Status: 404,
				Detail: `the answer is not an Intake's (Content-Type: "text/plain"), check the URL`},
			false, `404 Not Found: the answer is not an Intake's (Content-Type: "text/plain"), check the URL`,
		},
		"redirect": {
			308, map[string]string{"Location": "https://elsewhere.example/"}, "",
			client.Problem{Status: 308, Detail: "it redirects to https://elsewhere.example/"},
			false, "308 Permanent Redirect: it redirects to https://elsewhere.example/",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := newClient(t, 3600, func(w http.ResponseWriter, _ *http.Request) {
				for name, value := range test.header {
					w.Header().Set(name, value)
				}
				w.WriteHeader(test.status)
				io.WriteString(w, test.body)
			})
			_, err := c.Create(t.Context(), []byte("[]"), client.BatchOptions{})
			var got *client.Problem
			if !errors.As(err, &got) {
				t.Fatalf("the error is %v", err)
			}
			if diff := cmp.Diff(&test.want, got, cmpopts.IgnoreFields(client.Problem{}, "Body")); diff != "" {
				t.Errorf("wanted (-), got (+):\n%s", diff)
			}
			if got.Temporary() != test.temporary || client.IsTemporary(err) != test.temporary {
				t.Errorf("temporary: %v, want %v", got.Temporary(), test.temporary)
			}
			if err.Error() != test.says || string(got.Body) != test.body {
				t.Errorf("it says %q with the body %q, want %q", err, got.Body, test.says)
			}
		})
	}
}

// A token that is refused is a Problem within a TokenError, also when the answer
// is not an issuer's.
func TestClient_TokenRefused(t *testing.T) {
	for name, test := range map[string]struct {
		status    int
		body      string
		says      string
		temporary bool
	}{
		"wrong secret": {
			401, `{"error":"invalid_client","error_description":"unknown client, or wrong secret"}`,
			"get a token: 401 Unauthorized: invalid_client, unknown client, or wrong secret", false,
		},
		"no issuer": {404, "404 page not found",
			"get a token: 404 Not Found: the answer is not an issuer's, check the URL http://", false},
		"overloaded": {503, `{"error":"temporarily_unavailable"}`,
			"get a token: 503 Service Unavailable: temporarily_unavailable (Retry-After: 7 s)", true},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if test.temporary {
					w.Header().Set("Retry-After", "7")
				}
				w.WriteHeader(test.status)
				io.WriteString(w, test.body)
			}))
			defer server.Close()
			_, err := open(t, server.URL).Record(t.Context(), "a")
			var tokenErr *client.TokenError
			if !errors.As(err, &tokenErr) || !strings.HasPrefix(err.Error(), test.says) ||
				client.IsTemporary(err) != test.temporary {
				t.Errorf("%v, want %s", err, test.says)
			}
		})
	}
}

// Ids are part of a path as they are, and the answers come back whole.
func TestClient_Lookups(t *testing.T) {
	c, _ := newClient(t, 3600, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.EscapedPath() {
		case "GET /api/v1/clients/a%2Fb%20c":
			io.WriteString(w, `{"partner_client_id":"a/b c"}`)
		case "GET /api/v1/clients/status/id":
			io.WriteString(w, `{"status_check_id":"id","status":"Pending","result":[]}`)
		case "POST /api/v1/clients/reconcile":
			io.WriteString(w, `{"result":[{"record":"saved_same","partner_client_id":"a"}]}`)
		default:
			t.Errorf("asked for %s %s", r.Method, r.URL)
		}
	})
	record, err := c.Record(t.Context(), "a/b c")
	if err != nil || string(record) != `{"partner_client_id":"a/b c"}` {
		t.Errorf("record: %s %v", record, err)
	}
	status, err := c.Status(t.Context(), "id")
	if err != nil || status.ID != "id" || status.IsFinal() {
		t.Errorf("status: %+v %v", status, err)
	}
	records, err := c.Reconcile(t.Context(), []byte(`[{}]`))
	if err != nil || len(records.Result) != 1 || records.Result[0].Record != "saved_same" {
		t.Errorf("reconcile: %+v %v", records, err)
	}
}

// A stream has an answer or a problem for each line. A line that is cut off is
// no end.
func TestClient_Stream(t *testing.T) {
	c, _ := newClient(t, 3600, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) != "[1]\n[2]\n" || r.Header.Get("Prefer") != "wait=5" {
			t.Errorf("the stream is %q, Prefer %q", body, r.Header.Get("Prefer"))
		}
		io.WriteString(w, `{"status":"Completed","result":[{"status":{"state":"Completed","code":"saved"}}]}`+"\n")
		io.WriteString(w, `{"status":503,"code":"backlog","title":"Service Unavailable"}`+"\n"+`{"status":`)
	})
	stream, err := c.Stream(t.Context(), strings.NewReader("[1]\n[2]\n"), "wait=5")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	answer, err := stream.Next()
	if err != nil || len(answer.Result) != 1 || !answer.IsFinal() {
		t.Errorf("the first line: %+v %v", answer, err)
	}
	var problem *client.Problem
	if _, err := stream.Next(); !errors.As(err, &problem) || problem.Status != 503 || problem.Code != "backlog" {
		t.Errorf("the second line: %v", err)
	}
	if _, err := stream.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the line that is cut off: %v", err)
	}
}

func TestNew_Errors(t *testing.T) {
	for _, opts := range []client.Options{
		{URL: "127.0.0.1:8080", ClientID: "a", ClientSecret: "s"}, {URL: "http://a", ClientID: "a"},
		{URL: "http://a", ClientSecret: "s"},
	} {
		if _, err := client.New(opts); err == nil {
			t.Errorf("%+v: no error", opts)
		}
	}
}
