package sender_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
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

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"intake"
	"intake/cmd/intake/internal/sender"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A front gives a sender of batches to a handler. What the handler is to say is
// made up here because a real front can't be made to say it.
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

// answer says the same of every item of a batch.
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
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "Completed", "result": result})
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
	if err := json.Unmarshal(out.Bytes(), &totals); err != nil || totals.Batches != 4 || totals.Items != 6 || totals.Codes["saved"] != 6 {
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
	if err := s.Send(t.Context(), []string{write(t, "a.json", []byte("[1]"))}, report); err != nil || !report.IsSaved() || tries.Load() != 4 {
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
	for _, want := range []string{"batch 1 was refused: 400 Bad Request: no items", `batch 2 item 0 "other": Duplicate: already saved with different data`, "3 batches"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("not said: %s\n%s", want, &out)
		}
	}
}

// A wrong secret and a file that isn't JSON end with an error that says so.
func TestSender_Errors(t *testing.T) {
	s := front(t, func(w http.ResponseWriter, r *http.Request) { answer(w, r, http.StatusOK, saved) })
	report := sender.NewReport(io.Discard, false, nil)
	for content, want := range map[string]string{"[1] [2": "batch 2", `{"a":1}`: "not a JSON array"} {
		if err := s.Send(t.Context(), []string{write(t, "a.json", []byte(content))}, report); err == nil || !strings.Contains(err.Error(), want) {
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
