package front_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"intake"
	"intake/worker/queue"
)

// A status check when one of the two that it asks is away, or has forgotten.
func TestStatus(t *testing.T) {
	t.Parallel()
	id := uuid.Must(uuid.NewV7())
	logged := []queue.StoredChunk{{
		Chunk: &intake.Chunk{Batch: id, Chunks: 1, Len: 3, Clients: []intake.PartnerClient{{Item: 0, ID: "a"},
			{Item: 2, ID: `c"`}},
			Rejected: []intake.ItemVerdict{{Item: 1, Verdict: intake.Invalid("x")}}, RejectedKeys: []string{"b"}},
		Items: [][]byte{[]byte(`{"as": "sent"}`), []byte(`5`), nil},
	}}
	finished := []intake.Finished{{
		Outcome: intake.Outcome{Batch: id, Len: 3,
			NotSaved: []intake.ItemVerdict{{Item: 1, Verdict: intake.Invalid("x")},
				{Item: 2, Verdict: intake.DuplicateOfSaved(true)}}},
		Chunks: 1, Keys: []string{"a", "", `c"`},
	}}
	part := []intake.Finished{{Outcome: intake.Outcome{Batch: id, Len: 2}, Chunks: 3, Keys: []string{"x", "y"}}}
	second := []queue.StoredChunk{{Chunk: &intake.Chunk{Batch: id, Number: 1, Chunks: 3, First: 2, Len: 1,
		Clients: []intake.PartnerClient{{Item: 2, ID: "z"}}}, Items: [][]byte{[]byte(`{"z": 1}`)}}}
	// Of one that can't be read no more is known than that it is there.
	third := []queue.StoredChunk{{Chunk: &intake.Chunk{Batch: id, Number: 2}}}
	const (
		saved     = `"status":{"state":"Completed","code":"saved","validation_errors":""}`
		pending   = `"status":{"state":"Pending","code":"pending","validation_errors":""}`
		invalid   = `"status":{"state":"Failed","code":"invalid","validation_errors":"x"}`
		duplicate = `"status":{"state":"Duplicate","code":"duplicate_of_saved","validation_errors":"already saved with the same data"}`
	)
	away := errors.New("secret-host is away")
	for _, test := range []struct {
		name     string
		logged   []queue.StoredChunk
		logErr   error
		buried   []queue.StoredChunk
		finished []intake.Finished
		err      error
		status   int
		want     string // of the result
	}{
		{name: "nowhere", status: 404},
		{name: "pending", logged: logged, status: 200, want: `{"data":{"as": "sent"},` + pending + `},{"data":5,` +
			invalid + `},{"data":{"partner_client_id":"c\""},` + pending + `}`},
		{name: "final", logged: logged, finished: finished, status: 200,
			want: `{"data":{"as": "sent"},` + saved + `},{"data":5,` + invalid +
				`},{"data":{"partner_client_id":"c\""},` + duplicate + `}`},
		{name: "out of the log", finished: finished, status: 200, want: `{"data":{"partner_client_id":"a"},` + saved +
			`},{"data":{},` + invalid + `},{"data":{"partner_client_id":"c\""},` + duplicate + `}`},
		{name: "final, log away", logErr: away, finished: finished, status: 200,
			want: `{"data":{"partner_client_id":"a"},` + saved + `},{"data":{},` + invalid +
				`},{"data":{"partner_client_id":"c\""},` + duplicate + `}`},
		{name: "log away", logErr: away, status: 503},
		{name: "in part, log away", logErr: away, finished: part, status: 503},
		{name: "some finished, others in the log and among the dead letters", logged: second, buried: third,
			finished: part, status: 200,
			want: `{"data":{"partner_client_id":"x"},` + saved + `},{"data":{"partner_client_id":"y"},` + saved +
				`},{"data":{"z": 1},` + pending + `},{"data":{},` + pending + `}`},
		{name: "a dead letter that can't be read", buried: []queue.StoredChunk{{Chunk: &intake.Chunk{Batch: id}}},
			status: 200, want: `{"data":{},` + pending + `}`},
		{name: "a chunk is nowhere", logged: second, finished: part, status: 500},
		{name: "ledger away", logged: logged, err: away, status: 503},
		{name: "no room", logErr: queue.ErrNoRoom, finished: finished, status: 503},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := startFront(t)
			token := f.token(t)
			f.queue.logged = func(search queue.Search) ([]queue.StoredChunk, error) {
				if search.Partner.Name != "acme" || search.Batch != id {
					t.Errorf("looked for %s of %s", search.Batch, search.Partner.Name)
				}
				return test.logged, test.logErr
			}
			f.queue.buried = func(queue.Search) ([]queue.StoredChunk, error) { return test.buried, nil }
			f.store.finished = func(int32, uuid.UUID) ([]intake.Finished, error) { return test.finished, test.err }
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
				f.url+"/api/v1/clients/status/"+id.String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Authorization", "Bearer "+token)
			a := f.do(t, request)
			if test.status != http.StatusOK {
				a.checkProblem(t, test.status, "")
				if strings.Contains(a.String(), "secret-host") ||
					(test.status == 503) != (a.header.Get("Retry-After") != "") {
					t.Errorf("answered %v %s", a.header, a.Bytes())
				}
				return
			}
			if got := a.String(); a.status != test.status || !strings.HasSuffix(got, `"result":[`+test.want+"]}\n") {
				t.Errorf("answered %d %s, want %s", a.status, got, test.want)
			}
			if f.Inflight() != 0 || f.Questions() != 0 {
				t.Errorf("%d and %d bytes are still set aside", f.Inflight(), f.Questions())
			}
		})
	}
}

// A chunk is saved and purged just behind the one who looks for it: it is looked for again.
func TestStatus_Moves(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	id := uuid.Must(uuid.NewV7())
	asked := 0
	f.store.finished = func(int32, uuid.UUID) ([]intake.Finished, error) {
		if asked++; asked == 1 {
			return nil, nil
		}
		return []intake.Finished{{Outcome: intake.Outcome{Batch: id, Len: 1}, Chunks: 1, Keys: []string{"a"}}}, nil
	}
	if a := f.get(t, "/api/v1/clients/status/"+id.String(), f.token(t)); a.status != http.StatusOK ||
		!strings.Contains(a.String(), `"code":"saved"`) {
		t.Errorf("answered %d %s", a.status, a.Bytes())
	}
}

// A batch is denied only if nothing can be missed: where the queue can't be sure, its state
// is unknown.
func TestStatus_Unsure(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	path := "/api/v1/clients/status/" + uuid.Must(uuid.NewV7()).String()
	f.get(t, path, f.token(t)).checkProblem(t, http.StatusNotFound, "no_such_batch")
	f.queue.logged = func(search queue.Search) ([]queue.StoredChunk, error) {
		if search.Sure {
			return nil, errors.New("cut off")
		}
		return nil, nil
	}
	f.get(t, path, f.token(t)).checkProblem(t, http.StatusServiceUnavailable, "store_unavailable")
}

// While the data store hangs, questions wait for it. They take no room from batches, and
// questions beyond the room for them are refused immediately.
func TestQuestions_DataStoreHangs(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	token := f.token(t)
	f.SetQuestions(2 << 20) // a partner may have three quarters
	release, waiting := make(chan struct{}), make(chan struct{})
	var asking sync.WaitGroup
	defer asking.Wait()
	letGo := sync.OnceFunc(func() { close(release) })
	defer letGo()
	f.store.hang = func() {
		select {
		case waiting <- struct{}{}:
			<-release
		case <-release:
		}
	}
	f.queue.logged = func(search queue.Search) ([]queue.StoredChunk, error) {
		if !search.Room(queue.LargestMessage) {
			return nil, queue.ErrNoRoom
		}
		return nil, nil
	}
	reconcile := func() *http.Request {
		r := f.create(t, token, strings.NewReader(`["a", "b"]`))
		r.URL.Path += "/reconcile"
		return r
	}
	get := func(path string) *http.Request {
		r := f.create(t, token, nil)
		r.Method, r.URL.Path = http.MethodGet, path
		return r
	}
	ask := []func() *http.Request{
		func() *http.Request { return get("/api/v1/clients/status/" + uuid.Must(uuid.NewV7()).String()) },
		func() *http.Request { return get("/api/v1/clients/a") },
		reconcile,
		func() *http.Request {
			return f.create(t, token, strings.NewReader(items("a")), "Prefer", "handling=validate")
		},
	}
	early := make(chan string, len(ask)) // what those hear that should wait
	for _, request := range ask {
		for range 4 {
			r := request()
			asking.Go(func() {
				a, err := f.try(r)
				select {
				case <-release:
				default:
					early <- fmt.Sprintf("%s %s: %v, %+v", r.Method, r.URL, err, a)
				}
			})
			select {
			case <-waiting:
			case answer := <-early:
				t.Fatal(answer)
			}
		}
	}
	if held := f.Inflight(); held != 0 {
		t.Errorf("questions have %d bytes of the batches' memory", held)
	}
	if a := f.do(t, f.create(t, token, strings.NewReader(items("a")))); a.status != http.StatusOK {
		t.Errorf("a batch is answered %d %s", a.status, a.Bytes())
	}
	f.SetQuestions(f.Questions())
	for _, request := range ask {
		f.do(t, request()).checkProblem(t, http.StatusServiceUnavailable, "questions")
	}
	f.SetQuestions(64 << 20)
	letGo()
	asking.Wait()
	if held := f.Questions(); held != 0 {
		t.Errorf("%d bytes are still set aside for questions", held)
	}
}
