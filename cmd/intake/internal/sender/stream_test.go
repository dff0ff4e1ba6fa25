package sender_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"intake"
	"intake/cmd/intake/internal/sender"
)

// Every batch is answered in the end, though streams break, lines are refused or
// are not final, and a front is away for a while.
func TestSender_Stream(t *testing.T) {
	var mu sync.Mutex
	seen := make(map[string]int) // how often a batch was answered Completed, by its text
	var streams, posts atomic.Int32
	saved := func(batch string) {
		mu.Lock()
		defer mu.Unlock()
		seen[strings.TrimSpace(batch)]++
	}
	const line = `{"status":"%s","result":[{"status":{"state":"%[1]s","code":"%s","validation_errors":""}}]}` + "\n"
	s := front(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") != "application/x-ndjson" {
			posts.Add(1)
			body, _ := io.ReadAll(r.Body)
			saved(string(body))
			r.Body = io.NopCloser(bytes.NewReader(body))
			answer(w, r, http.StatusOK, intake.DuplicateOfSaved(true))
			return
		}
		controller := http.NewResponseController(w)
		_ = controller.EnableFullDuplex()
		if streams.Add(1) == 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusOK)
		_ = controller.Flush()
		lines := bufio.NewReader(r.Body)
		for n := 1; ; n++ {
			batch, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			switch {
			case n == 20 && streams.Load() == 1:
				connection, _, err := controller.Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				connection.Close()
				return
			case n == 40:
				fmt.Fprintln(w, `{"status":503,"title":"Service Unavailable","detail":"shutting down"}`)
				return
			case n%10 == 3:
				fmt.Fprintln(w, `{"status":503,"title":"Service Unavailable"}`)
			case n%10 == 7:
				fmt.Fprintf(w, line, "Pending", "pending")
			default:
				saved(batch)
				fmt.Fprintf(w, line, "Completed", "saved")
			}
			_ = controller.Flush()
		}
	})
	const batches = 300
	var file bytes.Buffer
	for n := range batches {
		fmt.Fprintf(&file, "[\n {\"n\": %d}\n]\n", n)
	}
	report := sender.NewReport(io.Discard, true, nil)
	if err := s.Stream(t.Context(), []string{write(t, "a.json", file.Bytes())}, report); err != nil {
		t.Fatal(err)
	}
	if err := report.Finish(); err != nil || !report.IsSaved() {
		t.Error(err, report.IsSaved())
	}
	for n := range batches {
		compact, asSent := fmt.Sprintf(`[{"n":%d}]`, n), fmt.Sprintf("[\n {\"n\": %d}\n]", n)
		if seen[compact]+seen[asSent] == 0 {
			t.Errorf("batch %d was never answered as saved", n)
		}
	}
	if streams.Load() < 5 || posts.Load() < 50 {
		t.Errorf("%d streams, %d requests apart: not what was to be tried", streams.Load(), posts.Load())
	}
}

// What every batch would meet ends the sending.
func TestSender_StreamErrors(t *testing.T) {
	s := front(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusForbidden)
	})
	err := s.Stream(t.Context(), []string{write(t, "a.json", []byte("[1] [2]"))}, sender.NewReport(io.Discard, true,
		nil))
	if err == nil || !strings.Contains(err.Error(), "403") {
		t.Error(err)
	}
	s = front(t, func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, http.StatusOK, intake.DuplicateOfSaved(true))
	})
	if err := s.Stream(t.Context(), []string{write(t, "b.json", []byte("{}"))}, sender.NewReport(io.Discard, true,
		nil)); err == nil || !strings.Contains(err.Error(), "not a JSON array") {
		t.Error(err)
	}
}
