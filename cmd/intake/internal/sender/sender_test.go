package sender_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"intake"
	"intake/cmd/intake/internal/sender"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// front returns a sender to a front whose answers to batches are the handler's. A
// real front can't be made to give these answers.
func front(t *testing.T, batches http.HandlerFunc) *sender.Sender {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /oauth/token", func(w http.ResponseWriter, r *http.Request) {
		if id, secret, _ := r.BasicAuth(); id != "acme" || secret != "secret" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"error":"invalid_client"}`)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"token","token_type":"Bearer","expires_in":3600}`)
	})
	mux.HandleFunc("POST /api/v1/clients", batches)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return newSender(t, server.URL, "secret")
}

func newSender(t *testing.T, url, secret string) *sender.Sender {
	t.Helper()
	s, err := sender.New(sender.Options{URL: url, ClientID: "acme", ClientSecret: secret, RetryFor: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// answer answers a batch with the same verdict for every item.
func answer(w http.ResponseWriter, r *http.Request, status int, verdict intake.Verdict) {
	var items []json.RawMessage
	body, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(body, &items); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var result []map[string]any
	for range items {
		result = append(result, map[string]any{"status": map[string]any{
			"state": verdict.Code.State(), "code": verdict.Code, "validation_errors": verdict.Text}})
	}
	whole := intake.Completed
	if status == http.StatusAccepted {
		whole = intake.Pending
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": whole, "result": result})
}

var saved = intake.Verdict{Code: intake.CodeSaved}

func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func compressed(t *testing.T, content string, writer func(io.Writer) io.WriteCloser) []byte {
	t.Helper()
	var b bytes.Buffer
	w := writer(&b)
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Arrays one a line, spread over lines, and compressed are all read.
func TestSender_Files(t *testing.T) {
	s := front(t, func(w http.ResponseWriter, r *http.Request) { answer(w, r, http.StatusOK, saved) })
	gz := compressed(t, "[1,2]\n[3]\n", func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
	zst := compressed(t, "[\n 4,\n 5\n]", func(w io.Writer) io.WriteCloser {
		encoder, err := zstd.NewWriter(w)
		if err != nil {
			t.Fatal(err)
		}
		return encoder
	})
	var out bytes.Buffer
	report := sender.NewReport(&out, true, nil)
	files := []string{write(t, "a.json", []byte("[6]")), write(t, "b.gz", gz), write(t, "c.zst", zst)}
	if err := s.Send(t.Context(), files, report); err != nil {
		t.Fatal(err)
	}
	if err := report.Finish(); err != nil || !report.IsSaved() {
		t.Fatal(err, report.IsSaved())
	}
	var totals sender.Totals
	if err := json.Unmarshal(out.Bytes(), &totals); err != nil || totals.Batches != 4 || totals.Items != 6 ||
		totals.Codes["saved"] != 6 {
		t.Errorf("%v %s", err, &out)
	}
}

// A batch that can't be taken now, or is not final yet, is sent again.
func TestSender_Retries(t *testing.T) {
	var tries atomic.Int32
	s := front(t, func(w http.ResponseWriter, r *http.Request) {
		switch tries.Add(1) {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			answer(w, r, http.StatusAccepted, intake.Verdict{})
		case 3:
			panic(http.ErrAbortHandler)
		default:
			answer(w, r, http.StatusOK, intake.DuplicateOfSaved(true))
		}
	})
	report := sender.NewReport(io.Discard, false, nil)
	if err := s.Send(t.Context(), []string{write(t, "a.json", []byte("[1]"))}, report); err != nil ||
		!report.IsSaved() || tries.Load() != 4 {
		t.Errorf("%v, saved %v after %d tries", err, report.IsSaved(), tries.Load())
	}
}

// What is not saved is listed with its reason, and the sending goes on.
func TestSender_NotSaved(t *testing.T) {
	s := front(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		switch {
		case bytes.Contains(body, []byte("empty")):
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"title":"Bad Request","detail":"no items"}`)
		case bytes.Contains(body, []byte("other")):
			answer(w, r, http.StatusOK, intake.DuplicateOfSaved(false))
		default:
			answer(w, r, http.StatusOK, saved)
		}
	})
	var out bytes.Buffer
	report := sender.NewReport(&out, false, nil)
	file := write(t, "a.json", []byte(`["empty"] [{"partner_client_id":"other"}] ["good"]`))
	if err := s.Send(t.Context(), []string{file}, report); err != nil {
		t.Fatal(err)
	}
	if err := report.Finish(); err != nil || report.IsSaved() {
		t.Fatal(err, report.IsSaved())
	}
	for _, want := range []string{"batch 1 was refused: 400 Bad Request: no items",
		`batch 2 item 0 "other": Duplicate: already saved with different data`, "3 batches"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("not said: %s\n%s", want, &out)
		}
	}
}

// A wrong secret and a file that isn't JSON end with an error that says so.
func TestSender_Errors(t *testing.T) {
	s := front(t, func(w http.ResponseWriter, r *http.Request) { answer(w, r, http.StatusOK, saved) })
	report := sender.NewReport(io.Discard, false, nil)
	for content, want := range map[string]string{
		"[1] [2":               "a.json: it ends in the middle of batch 2",
		"":                     "a.json: there are no batches in it",
		`{"a":1}`:              "a.json: batch 1 is not a JSON array of items",
		"[1,\n2]\n[3]\n[4,\n]": "a.json: line 5, byte 16, batch 3: invalid character ']' looking for beginning of value",
	} {
		if err := s.Send(t.Context(), []string{write(t, "a.json", []byte(content))}, report); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", content, err)
		}
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"invalid_client"}`)
	}))
	defer server.Close()
	_, err := newSender(t, server.URL, "wrong").Post(t.Context(), []byte("[1]"))
	if err == nil || !strings.Contains(err.Error(), "invalid_client") {
		t.Errorf("wrong secret: %v", err)
	}
}

// What isn't saved is listed in the order of the batches, whichever is answered
// first, and the text of a conflict doesn't repeat the state.
func TestSender_Order(t *testing.T) {
	last := make(chan struct{})
	s := front(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if string(body) == `["3"]` {
			defer close(last)
		} else {
			<-last
		}
		answer(w, r, http.StatusOK, intake.ConflictInRequest([]int{0, 1}, "k"))
	})
	var out bytes.Buffer
	report := sender.NewReport(&out, false, nil)
	if err := s.Send(t.Context(), []string{write(t, "a.json", []byte(`["1"] ["2"] ["3"]`))}, report); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		_, said, _ := strings.Cut(strings.TrimSpace(line), "a.json ")
		got = append(got, said)
	}
	var want []string
	for n := 1; n <= 3; n++ {
		want = append(want, fmt.Sprintf(`batch %d item 0 null: Conflict: items 0 and 1 share partner_client_id "k" but their data differs`, n))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("wanted (-), listed (+):\n%s", diff)
	}
}

// Each wait is announced with its reason, and the last reason is the error. A
// server that asks for a longer wait than there is time for is not asked again.
func TestSender_GivesUp(t *testing.T) {
	for name, test := range map[string]struct {
		retryAfter string
		tries      int
		want       string
	}{
		"after a while": {"", 2, "of retries: 503 Service Unavailable"},
		"at once":       {"8000", 1, "retried for no longer than 400ms: 503 Service Unavailable (Retry-After: 8000 s)"},
	} {
		t.Run(name, func(t *testing.T) {
			var tries, waits atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/oauth/token" {
					w.Header().Set("Content-Type", "application/json")
					fmt.Fprint(w, `{"access_token":"token","token_type":"Bearer","expires_in":3600}`)
					return
				}
				tries.Add(1)
				w.Header().Set("Retry-After", test.retryAfter)
				w.WriteHeader(http.StatusServiceUnavailable)
			}))
			defer server.Close()
			s, err := sender.New(sender.Options{URL: server.URL, ClientID: "acme", ClientSecret: "secret",
				RetryFor: 400 * time.Millisecond,
				Retrying: func(batch sender.Batch, reason error, wait time.Duration) {
					if waits.Add(1); wait <= 0 || !strings.HasPrefix(reason.Error(), "503") {
						t.Errorf("retrying %+v after %s because of %v", batch, wait, reason)
					}
				}})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			_, err = s.Post(t.Context(), []byte("[1]"))
			if err == nil || !strings.HasSuffix(err.Error(), test.want) {
				t.Errorf("the error is %v, want %s", err, test.want)
			}
			if tries.Load() < int32(test.tries) || waits.Load() != tries.Load()-1 {
				t.Errorf("%d tries, %d waits, want at least %d tries", tries.Load(), waits.Load(), test.tries)
			}
		})
	}
}

// An interrupted sender says what the last try failed with.
func TestSender_Interrupted(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close() // nobody listens there
	ctx, cancel := context.WithCancel(t.Context())
	s, err := sender.New(sender.Options{URL: server.URL, ClientID: "acme", ClientSecret: "secret",
		Retrying: func(sender.Batch, error, time.Duration) { cancel() }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.Post(ctx, []byte("[1]"))
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "connection refused") ||
		strings.Count(err.Error(), "dial tcp") != 1 {
		t.Errorf("the error is %v", err)
	}
}
