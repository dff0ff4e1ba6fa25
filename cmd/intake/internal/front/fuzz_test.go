package front_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"intake"
)

// Whatever is sent is answered: with JSON, and never as if it were the front's fault.
func FuzzCreate(f *testing.F) {
	front := newFront(f, func(o *options) { o.Logger = nil })
	token := front.token(f)
	cases, err := filepath.Glob("../../../../internal/decode/testdata/cases/*.json")
	if err != nil || len(cases) == 0 {
		f.Fatal("no cases found", err)
	}
	for _, file := range cases {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var c struct {
			Request json.RawMessage
			Body    string
		}
		if err := json.Unmarshal(text, &c); err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(string(c.Request)+c.Body), "", "")
	}
	batch := items("a", "b")
	f.Add([]byte(gzipped(f, batch)), "gzip", "return=minimal")
	f.Add([]byte(zstded(f, batch)), "zstd", "wait=1")
	f.Add([]byte(zstdedAtOnce(f, batch)), "zstd", `wait="`)
	f.Fuzz(func(t *testing.T, body []byte, encoding, prefer string) {
		request := front.create(t, token, bytes.NewReader(body))
		request.Header["Content-Encoding"], request.Header["Prefer"] = []string{encoding}, []string{prefer}
		a := newAnswer()
		front.ServeHTTP(a, request)
		if a.status >= http.StatusInternalServerError || !json.Valid(a.Bytes()) {
			t.Fatalf("answered %d %s", a.status, a.Bytes())
		}
		if a.status == http.StatusOK {
			for i, item := range a.batch(t).Result {
				if item.Status.State == intake.Pending || item.Status.State != item.Status.Code.State() {
					t.Errorf("item %d is %+v", i, item.Status)
				}
			}
		}
		front.queue.batches = nil
		if front.Inflight() != 0 {
			t.Errorf("%d bytes are still set aside", front.Inflight())
		}
	})
}
