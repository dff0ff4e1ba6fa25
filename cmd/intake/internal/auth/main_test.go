package auth_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/auth/authtest"
	"intake/cmd/intake/internal/problem"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil { // most of the tests wait
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// A testAuth is an Authenticator as a server has it. POST /api/v1/clients needs the scope
// clients:write, and does nothing.
type testAuth struct {
	*auth.Authenticator
	http.Handler
	registry *authtest.Registry
	logs     *observer.ObservedLogs
	secret   string // of the partner acme
	url      string
	client   *http.Client
}

// newAuth returns one that knows the partner acme.
func newAuth(t testing.TB, change func(*auth.Options)) *testAuth {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	f := &testAuth{registry: &authtest.Registry{}, logs: logs}
	f.secret = f.registry.Add("acme")
	opts := auth.Options{Registry: f.registry, PublicURL: authtest.PublicURL, Logger: zap.New(core)}
	if change != nil {
		change(&opts)
	}
	var err error
	if f.Authenticator, err = auth.New(opts); err != nil {
		t.Fatal(err)
	}
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Handler = handlerOf(f.Authenticator)
	return f
}

func handlerOf(a *auth.Authenticator) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h problem.Handler) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if refusal, ok := errors.AsType[*problem.Problem](h(w, r)); ok {
				refusal.Write(w)
			}
		})
	}
	handle("POST /oauth/token", a.IssueToken)
	handle("GET /.well-known/jwks.json", a.ServeKeys)
	handle("GET /.well-known/oauth-authorization-server", a.ServeMetadata)
	handle("POST /api/v1/clients", func(w http.ResponseWriter, r *http.Request) error {
		_, err := a.Authenticate(r, auth.ScopeWrite)
		if err == nil {
			w.WriteHeader(http.StatusOK)
		}
		return err
	})
	return mux
}

// startAuth returns one that serves until the test ends.
func startAuth(t testing.TB) *testAuth {
	t.Helper()
	f := newAuth(t, nil)
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.url, f.client = server.URL, server.Client()
	return f
}

// withIssuer returns one that takes the tokens of an issuer, which is reached by
// transport if there is one, and keeps up with its keys until the test ends.
func withIssuer(t testing.TB, url string, transport http.RoundTripper, change func(*auth.Options)) *testAuth {
	t.Helper()
	f := newAuth(t, func(o *auth.Options) {
		o.Issuer.URL, o.Issuer.Transport = url, transport
		if change != nil {
			change(o)
		}
	})
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	return f
}

// token gets an access token of acme, for all scopes if none are given.
func (f *testAuth) token(t testing.TB, scopes ...string) string {
	t.Helper()
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {"acme"}, "client_secret": {f.secret},
		"scope": {strings.Join(scopes, " ")},
	}
	request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/oauth/token",
		strings.NewReader(form.Encode()))
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := newAnswer()
	f.ServeHTTP(w, request)
	var granted struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(w.Bytes(), &granted); err != nil || w.status != http.StatusOK {
		t.Fatalf("no token: %d %s", w.status, w.Bytes())
	}
	return granted.AccessToken
}

// request returns a request with a token.
func (f *testAuth) request(t testing.TB, token string) *http.Request {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url+"/api/v1/clients", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	return request
}

// do sends a request, and reads all of the answer.
func (f *testAuth) do(t testing.TB, request *http.Request) *answer {
	t.Helper()
	response, err := f.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	a := &answer{status: response.StatusCode, header: response.Header}
	if _, err := a.ReadFrom(response.Body); err != nil {
		t.Fatal(err)
	}
	return a
}

// post returns the answer to a request with a token.
func (f *testAuth) post(t testing.TB, token string) *answer {
	t.Helper()
	a := newAnswer()
	f.ServeHTTP(a, f.request(t, token))
	return a
}

// wantPost checks the status of the answer to a request with a token.
func (f *testAuth) wantPost(t testing.TB, token string, status int) {
	t.Helper()
	if a := f.post(t, token); a.status != status {
		t.Errorf("answered %d %s, want %d", a.status, a.Bytes(), status)
	}
}

// An answer is what was said to a request.
type answer struct {
	bytes.Buffer
	status int
	header http.Header
}

func newAnswer() *answer                 { return &answer{header: http.Header{}} }
func (a *answer) Header() http.Header    { return a.header }
func (a *answer) WriteHeader(status int) { a.status = status }

// checkProblem checks that an answer is a refusal with this status, whose "code: detail"
// contains says.
func (a *answer) checkProblem(t testing.TB, status int, says string) {
	t.Helper()
	var p struct{ Code, Detail string }
	if err := json.Unmarshal(a.Bytes(), &p); err != nil || a.status != status {
		t.Fatalf("answered %d %s, want problem %d", a.status, a.Bytes(), status)
	}
	if !strings.Contains(p.Code+": "+p.Detail, says) {
		t.Errorf("the problem is %+v, want one that says %q", p, says)
	}
	if retry := a.header.Get("Retry-After"); (status == http.StatusServiceUnavailable) != (retry != "") {
		t.Errorf("%d with Retry-After %q", status, retry)
	}
}
