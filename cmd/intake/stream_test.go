package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"golang.org/x/oauth2"

	"intake"
)

// Streams of 10,000 batches in all, one line in a hundred broken, over HTTP/1.1
// and HTTP/2: each line is answered in its place, and what is Completed is there.
func TestStream(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{fronts: 2, workers: 2})
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	const streams, lines, each = 4, 2_500, 2
	var sending sync.WaitGroup
	for n := range streams {
		sending.Go(func() {
			f := s.fronts[n%2]
			client := s.client(t.Context(), f, "acme", s.secret)
			if n >= streams/2 {
				client.Transport.(*oauth2.Transport).Base = transport
			}
			body, send := io.Pipe()
			go func() {
				for line := range lines {
					text := fmt.Sprintf(`[{"partner_client_id":"%d-%d-a","entity_type":"X"},{"partner_client_id":"%[1]d-%d-b","entity_type":"X"}]`, n, line, line)
					if line%100 == 99 {
						text = text[:len(text)/2]
					}
					if _, err := io.WriteString(send, text+"\n"); err != nil {
						return
					}
				}
				send.Close()
			}()
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url()+"/api/v1/clients", body)
			if err != nil {
				t.Error(err)
				return
			}
			request.Header.Set("Content-Type", "application/x-ndjson")
			response, err := client.Do(request)
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			if want := 1 + n/(streams/2); response.ProtoMajor != want || response.StatusCode != http.StatusOK {
				t.Errorf("HTTP/%d, %s", response.ProtoMajor, response.Status)
			}
			answers := bufio.NewScanner(response.Body)
			line := 0
			for ; answers.Scan(); line++ {
				var a answer
				if err := json.Unmarshal(answers.Bytes(), &a); err != nil {
					t.Errorf("line %d: %v", line, err)
					return
				}
				if line%100 == 99 {
					if a.refused.Status != 400 || a.Result != nil {
						t.Errorf("broken line %d: %s", line, answers.Bytes())
					}
					continue
				}
				if len(a.Result) != each {
					t.Errorf("line %d: %s", line, answers.Bytes())
					return
				}
				for i, id := range []string{"a", "b"} {
					want := fmt.Sprintf(`{"partner_client_id":"%d-%d-%s","entity_type":"X"}`, n, line, id)
					if r := a.Result[i]; string(r.Data) != want || r.Status.Code != intake.CodeSaved {
						t.Errorf("line %d: item %d is %s, %v", line, i, r.Data, r.Status)
					}
				}
			}
			if answers.Err() != nil || line != lines {
				t.Errorf("%d answers: %v", line, answers.Err())
			}
		})
	}
	sending.Wait()
	if n := s.count(t, "select count(*) from saved_clients"); n != streams*lines*each*99/100 {
		t.Errorf("%d clients are saved", n)
	}
}
