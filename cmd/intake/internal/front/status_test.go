package front_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"intake"
	"intake/worker"
)

// A status check when one of the two that it asks is away, or has forgotten.
func TestStatus(t *testing.T) {
	t.Parallel()
	id := uuid.Must(uuid.NewV7())
	logged := []worker.Logged{{
		Chunk: &intake.Chunk{Batch: id, Chunks: 1, Len: 3, Clients: []intake.PartnerClient{{Item: 0, ID: "a"}, {Item: 2, ID: `c"`}},
			Rejected: []intake.ItemVerdict{{Item: 1, Verdict: intake.Invalid("x")}}, RejectedKeys: []string{"b"}},
		Items: [][]byte{[]byte(`{"as": "sent"}`), []byte(`5`), nil},
	}}
	finished := []intake.Finished{{
		Outcome: intake.Outcome{Batch: id, Len: 3, NotSaved: []intake.ItemVerdict{{Item: 1, Verdict: intake.Invalid("x")}, {Item: 2, Verdict: intake.DuplicateOfSaved(true)}}},
		Chunks:  1, Keys: []string{"a", "", `c"`},
	}}
	part := []intake.Finished{{Outcome: intake.Outcome{Batch: id, Len: 3}, Chunks: 2, Keys: make([]string, 3)}}
	const (
		saved     = `"status":{"state":"Completed","code":"saved","validation_errors":""}`
		pending   = `"status":{"state":"Pending","code":"pending","validation_errors":""}`
		invalid   = `"status":{"state":"Failed","code":"invalid","validation_errors":"x"}`
		duplicate = `"status":{"state":"Duplicate","code":"duplicate_of_saved","validation_errors":"already saved with the same data"}`
	)
	away := errors.New("secret-host is away")
	for _, test := range []struct {
		name     string
		logged   []worker.Logged
		logErr   error
		finished []intake.Finished
		err      error
		status   int
		want     string // of the result
	}{
		{name: "nowhere", status: 404},
		{name: "pending", logged: logged, status: 200, want: `{"data":{"as": "sent"},` + pending + `},{"data":5,` + invalid + `},{"data":{"partner_client_id":"c\""},` + pending + `}`},
		{name: "final", logged: logged, finished: finished, status: 200, want: `{"data":{"as": "sent"},` + saved + `},{"data":5,` + invalid + `},{"data":{"partner_client_id":"c\""},` + duplicate + `}`},
		{name: "out of the log", finished: finished, status: 200, want: `{"data":{"partner_client_id":"a"},` + saved + `},{"data":{},` + invalid + `},{"data":{"partner_client_id":"c\""},` + duplicate + `}`},
		{name: "final, log away", logErr: away, finished: finished, status: 200, want: `{"data":{"partner_client_id":"a"},` + saved + `},{"data":{},` + invalid + `},{"data":{"partner_client_id":"c\""},` + duplicate + `}`},
		{name: "log away", logErr: away, status: 503},
		{name: "in part, log away", logErr: away, finished: part, status: 503},
		{name: "ledger away", logged: logged, err: away, status: 503},
		{name: "no room", logErr: worker.ErrNoRoom, finished: finished, status: 503},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := startFront(t)
			token := f.token(t)
			f.queue.logged = func(_ context.Context, partner intake.Partner, batch uuid.UUID, _ func(int64) bool) ([]worker.Logged, error) {
				if partner.Name != "acme" || batch != id {
					t.Errorf("asked for %s of %s", batch, partner.Name)
				}
				return test.logged, test.logErr
			}
			f.ledger.finished = func(int32, uuid.UUID) ([]intake.Finished, error) { return test.finished, test.err }
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+"/api/v1/clients/status/"+id.String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Authorization", "Bearer "+token)
			a := f.do(t, request)
			if test.status != http.StatusOK {
				a.checkProblem(t, test.status, "")
				if strings.Contains(a.String(), "secret-host") || (test.status == 503) != (a.header.Get("Retry-After") != "") {
					t.Errorf("answered %v %s", a.header, a.Bytes())
				}
				return
			}
			if got := a.String(); a.status != test.status || !strings.HasSuffix(got, `"result":[`+test.want+"]}\n") {
				t.Errorf("answered %d %s, want %s", a.status, got, test.want)
			}
			if f.Inflight() != 0 {
				t.Errorf("%d bytes are still set aside", f.Inflight())
			}
		})
	}
}
