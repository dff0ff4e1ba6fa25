package front_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"intake"
	"intake/dedupe"
	"intake/worker/queue"
)

// An answer to items of each kind, to the byte.
func TestCreate(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	f.seen.known = map[string]dedupe.Seen{"same": dedupe.SeenSame, "different": dedupe.SeenDifferent}
	sent := []string{
		`{ "entity_type" :"SoleTrader",` + "\n\t" +
			`"partner_client_id":"\u006eew/\ud83d\ude00", "revenue_claims":[ ] }`,
		`{"partner_client_id":"twice","entity_type":"A"}`,
		`{"entity_type":"A","partner_client_id":"twice"}`,
		`{"partner_client_id":"same","entity_type":"A"}`,
		`{"partner_client_id":"different","entity_type":"A"}`,
		`{"partner_client_id":"c\"","entity_type":"A"}`,
		`{"partner_client_id":"c\"","entity_type":"B"}`,
		`{"partner_client_id":"refused","entity_type":"A"}`,
		` 12.50 `,
	}
	f.queue.submit = func(_ context.Context, batch *intake.Batch) (queue.Ticket, error) {
		for i, verdict := range batch.Verdicts {
			if pending := i == 0 || i == 1 || i == 7; pending != (verdict.Code == intake.CodePending) {
				t.Errorf("item %d was queued as %s", i, verdict.Code)
			}
		}
		return &fakeTicket{wait: func(context.Context) bool {
			saveAll(batch)
			batch.Verdicts[7] = intake.Refused("no \"\u0001\\ é\xff")
			return true
		}}, nil
	}
	a := f.do(t, f.create(t, f.token(t), strings.NewReader(" [\n"+strings.Join(sent, " ,")+"] ")))
	status := func(state, code, text string) string {
		return `"status":{"state":"` + state + `","code":"` + code + `","validation_errors":"` + text + `"}}`
	}
	want := `"status":"Completed","result":[` + strings.Join([]string{
		`{"data":` + sent[0] + `,` + status("Completed", "saved", ""),
		`{"data":` + sent[1] + `,` + status("Completed", "saved", ""),
		`{"data":` + sent[2] + `,` + status("Duplicate", "duplicate_in_request", "duplicate of item 1 in this request"),
		`{"data":` + sent[3] + `,` + status("Duplicate", "duplicate_of_saved", "already saved with the same data"),
		`{"data":` + sent[4] + `,` + status("Duplicate", "duplicate_of_saved",
			"already saved with different data; the saved record was not changed"),
		`{"data":` + sent[5] + `,` + status("Conflict", "conflict_in_request",
			`conflict: items 5 and 6 share partner_client_id \"c\\\"\" but their data differs`),
		`{"data":` + sent[6] + `,` + status("Conflict", "conflict_in_request",
			`conflict: items 5 and 6 share partner_client_id \"c\\\"\" but their data differs`),
		`{"data":` + sent[7] + `,` + status("Failed", "refused", `the data store refused this item: no \"\u0001\\ é`+
			"\ufffd"),
		`{"data":12.50,` + status("Failed", "invalid", "item: must be a JSON object, not a number"),
	}, ",") + "]}\n"
	head, rest, _ := strings.Cut(a.String(), `"status":`)
	if rest = `"status":` + rest; rest != want {
		t.Errorf("answered\n%s\nwant\n%s", rest, want)
	}
	id := f.queue.batches[0].ID
	if id.Version() != 7 || f.queue.batches[0].Partner.Name != "acme" {
		t.Errorf("queued as %v of %+v", id, f.queue.batches[0].Partner)
	}
	if want := fmt.Sprintf(`{"status_check_id":"%s","status_check_uri":"/api/v1/clients/status/%[1]s",`,
		id); head != want {
		t.Errorf("the answer begins with %s, want %s", head, want)
	}
	if a.status != http.StatusOK || a.header.Get("Location") != "" || a.header.Get("Cache-Control") != "no-store" ||
		a.header.Get("Preference-Applied") != "" {
		t.Errorf("answered %d %v", a.status, a.header)
	}
}

// What needs no saving is answered without the queue, and cannot be asked for later.
func TestCreate_NothingToSave(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	f.queue.submit = func(context.Context, *intake.Batch) (queue.Ticket, error) { return nil, queue.ErrUnavailable }
	f.seen.known = map[string]dedupe.Seen{"known": dedupe.SeenSame}
	a := f.do(t, f.create(t, f.token(t),
		strings.NewReader(`[{"partner_client_id":"known","entity_type":"A"}, {}, {"partner_client_id":"known","entity_type":"A"}]`)))
	b := a.batch(t)
	type outcome struct {
		HTTP        int
		Status      intake.State
		ID          string
		StatusCheck bool
		Items       int
	}
	got := outcome{a.status, b.Status, b.ID, strings.Contains(a.String(), "status_check"), len(b.Result)}
	if diff := cmp.Diff(outcome{HTTP: http.StatusOK, Status: intake.Completed, Items: 3}, got); diff != "" {
		t.Errorf("(-want +got):\n%s\nanswered %s", diff, a.Bytes())
	}
	if f.queue.submitted() > 0 {
		t.Error("something was queued")
	}
}

// When the wait runs out, what is not saved yet is Pending, and it is told where to look.
func TestCreate_Pending(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	released := make(chan struct{})
	f.queue.submit = func(_ context.Context, batch *intake.Batch) (queue.Ticket, error) {
		ticket := untilDone(nil)
		ticket.release = func() { close(released) }
		batch.Verdicts[0].Code = intake.CodeSaved
		return ticket, nil
	}
	a := f.do(t, f.create(t, f.token(t), strings.NewReader(items("one", "two")), "Prefer",
		"respond-async, wait=0; foo=1, return=minimal"))
	b := a.batch(t)
	uri := "/api/v1/clients/status/" + b.ID
	type outcome struct {
		HTTP          int
		Status        intake.State
		URI, Location string
	}
	got := outcome{a.status, b.Status, b.URI, a.header.Get("Location")}
	if diff := cmp.Diff(outcome{http.StatusAccepted, intake.Pending, uri, uri}, got); diff != "" {
		t.Errorf("(-want +got):\n%s\nanswered %s", diff, a.Bytes())
	}
	if err := uuid.Validate(b.ID); err != nil {
		t.Error(err)
	}
	if got := a.header.Get("Preference-Applied"); got != "respond-async, wait=0, return=minimal" {
		t.Errorf("Preference-Applied: %s", got)
	}
	want := `"result":[{"status":{"state":"Completed","code":"saved","validation_errors":""}},{"status":{"state":"Pending","code":"pending","validation_errors":""}}]}` + "\n"
	if !strings.HasSuffix(a.String(), want) {
		t.Errorf("answered %s, want …%s", a.Bytes(), want)
	}
	<-released
}

// A request is refused as a whole for its headers, its body or its path.
func TestCreate_Refused(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	token := f.token(t)
	for _, c := range []struct {
		name    string
		body    string
		headers []string
		status  int
		says    string
		header  string // name=value of the answer
	}{
		{"not UTF-8", "[{\"partner_client_id\":\"\xff\"}]", nil, 400, "not UTF-8 at byte 23", ""},
		{"byte order mark", "\ufeff" + items("a"), nil, 400, "byte order mark", ""},
		{"not JSON", `[{"partner_client_id": oops}]`, nil, 400, "at byte 23", ""},
		{"too deep", `[{"a":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "}]", nil, 400, "deep", ""},
		{"not an array", `{"partner_client_id":"a"}`, nil, 400, "must be a JSON array", ""},
		{"empty array", `[ ]`, nil, 400, "no items", ""},
		{"empty body", ``, nil, 400, "empty", ""},
		{"trailing bytes", `[{}] x`, nil, 400, "trailing bytes", ""},
		{"too many items", "[1" + strings.Repeat(",1", intake.MaxBatchItems) + "]", nil, 413, "10000 items", ""},
		{"too long", strings.Repeat(" ", intake.MaxBodyBytes+1), nil, 413, "32 MiB", ""},
		{"no type", items("a"), []string{"Content-Type", ""}, 415, "application/json",
			"Accept=application/json, application/x-ndjson"},
		{"another type", items("a"), []string{"Content-Type", "text/plain"}, 415, "application/json",
			"Accept=application/json, application/x-ndjson"},
		{"problem type", items("a"), []string{"Content-Type", "application/problem+json"}, 415, "application/json",
			"Accept=application/json, application/x-ndjson"},
		{"broken type", items("a"), []string{"Content-Type", "application/json; charset"}, 415, "application/json",
			"Accept=application/json, application/x-ndjson"},
		{"another charset", items("a"), []string{"Content-Type", "application/json; charset=utf-16"}, 415,
			"application/json", "Accept=application/json, application/x-ndjson"},
		{"another encoding", items("a"), []string{"Content-Encoding", "br"}, 415, "gzip or zstd",
			"Accept-Encoding=gzip, zstd"},
		{"two encodings", items("a"), []string{"Content-Encoding", "gzip, zstd"}, 415, "gzip or zstd",
			"Accept-Encoding=gzip, zstd"},
		{"no token", items("a"), []string{"Authorization", ""}, 401, "Bearer",
			`WWW-Authenticate=Bearer realm="intake"`},
		{"another scheme", items("a"), []string{"Authorization", "Basic YTpi"}, 401, "Bearer",
			`WWW-Authenticate=Bearer realm="intake", error="invalid_request"`},
		{"a bad token", items("a"), []string{"Authorization", "Bearer x.y.z"}, 401, "not valid",
			`WWW-Authenticate=Bearer realm="intake", error="invalid_token", error_description="the access token is not valid"`},
		{"an empty token", items("a"), []string{"Authorization", "Bearer "}, 401, "", ""},
		{"another scope", items("a"), []string{"Authorization", "Bearer " + f.token(t, "clients:read")}, 403,
			"clients:write", `WWW-Authenticate=Bearer realm="intake", error="insufficient_scope", scope="clients:write"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := f.do(t, f.create(t, token, strings.NewReader(c.body), c.headers...))
			a.checkProblem(t, c.status, c.says)
			if name, value, ok := strings.Cut(c.header, "="); ok && a.header.Get(name) != value {
				t.Errorf("%s: %s, want %s", name, a.header.Get(name), value)
			}
		})
	}
	t.Cleanup(func() {
		if f.queue.submitted() > 0 {
			t.Error("a request that was refused was queued")
		}
	})
}

// What a request may well have is no reason to refuse it.
func TestCreate_Tolerated(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	token := f.token(t)
	for _, headers := range [][]string{
		{"Content-Type", "Application/JSON; charset=UTF-8"},
		{"Content-Type", `application/json;charset="utf-8"`},
		{"Content-Encoding", "identity"},
		{"Authorization", "bearer  " + token},
		{"Idempotency-Key", "7"},
		{"Expect", "100-continue"},
		{"Accept", "text/html"},
	} {
		if a := f.do(t, f.create(t, token, strings.NewReader(items("a")), headers...)); a.status != http.StatusOK {
			t.Errorf("%q: answered %d %s", headers, a.status, a.Bytes())
		}
	}
}

// What the queue says decides the answer.
func TestCreate_QueueRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		err    error
		status int // 0: broken off
		code   string
		logged int // errors
	}{
		{"unavailable", fmt.Errorf("%w: nats at 10.0.0.1 is away", queue.ErrUnavailable), 503, "queue_unavailable", 0},
		{"full", fmt.Errorf("%w: 10.0.0.1 has no room", queue.ErrFull), 503, "queue_full", 0},
		{"too large", queue.ErrTooLarge, 413, "item_too_large", 0},
		{"uncertain", fmt.Errorf("%w: no answer", queue.ErrUncertain), 0, "", 1},
		{"something else", errors.New("secret internals"), 503, "queue_unavailable", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := startFront(t)
			f.queue.submit = func(context.Context, *intake.Batch) (queue.Ticket, error) { return nil, c.err }
			a, err := f.try(f.create(t, f.token(t), strings.NewReader(items("a"))))
			switch {
			case c.status == 0:
				if err == nil {
					t.Errorf("answered %d %s, want no answer", a.status, a.Bytes())
				}
			case err != nil:
				t.Error(err)
			default:
				a.checkProblem(t, c.status, c.code+": ")
				if strings.Contains(a.String(), "10.0.0.1") || strings.Contains(a.String(), "internals") {
					t.Errorf("the answer tells internals: %s", a.Bytes())
				}
			}
			if n := f.logs.Filter(isError).Len(); n != c.logged {
				t.Errorf("%d errors were logged, want %d", n, c.logged)
			}
			if f.Inflight() != 0 {
				t.Errorf("%d bytes are still set aside", f.Inflight())
			}
		})
	}
}

// A client that goes away is not waited for, and what it has sent is let go of.
func TestCreate_ClientGone(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	waiting, released := make(chan struct{}, 1), make(chan struct{})
	f.queue.submit = func(context.Context, *intake.Batch) (queue.Ticket, error) {
		ticket := untilDone(waiting)
		ticket.release = func() { close(released) }
		return ticket, nil
	}
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		<-waiting
		leave()
	}()
	if _, err := f.try(f.create(t, f.token(t), strings.NewReader(items("a"))).WithContext(ctx)); !errors.Is(err,
		context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-released
}

// A panic is answered as an internal error, and takes nothing down.
func TestFront_Panic(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	f.seen.ask = func() { panic("very secret") }
	token := f.token(t)
	a := f.do(t, f.create(t, token, strings.NewReader(items("a"))))
	a.checkProblem(t, 500, "server_fault: this should not have happened, and what became of the request is not known: send it again")
	if strings.Contains(a.String(), "secret") || f.logs.Filter(isError).Len() != 1 {
		t.Errorf("answered %s and logged %v", a.Bytes(), f.logs.All())
	}
	f.seen.ask = nil
	if a := f.do(t, f.create(t, token, strings.NewReader(items("a")))); a.status != http.StatusOK || f.Inflight() != 0 {
		t.Errorf("then answered %d; %d bytes are set aside", a.status, f.Inflight())
	}
}

// Nothing that is secret or a partner's data gets into the log.
func TestFront_LogsNoSecrets(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	token := f.token(t)
	f.do(t, f.create(t, token, strings.NewReader(items("very-private-id"))))
	f.do(t, f.create(t, token,
		strings.NewReader(`[{"partner_client_id":"very-private-id","very-private-property":1}]`)))
	f.do(t, f.create(t, token+"x", strings.NewReader(items("very-private-id"))))
	private := regexp.MustCompile("very-private|" + regexp.QuoteMeta(f.secret) + "|" + regexp.QuoteMeta(token))
	for _, entry := range f.logs.All() {
		if line := fmt.Sprint(entry.Message, entry.ContextMap()); private.MatchString(line) {
			t.Errorf("logged: %s", line)
		}
	}
	if f.logs.FilterMessage("batch").Len() == 0 {
		t.Error("no batch was logged")
	}
}

// The answer to the largest batch comes whole.
func TestCreate_LargestBatch(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	head := `[{"partner_client_id":"big","entity_type":"A","x":"`
	body := head + strings.Repeat("x", intake.MaxBodyBytes-len(head)-3) + `"}]`
	a := f.do(t, f.create(t, f.token(t), strings.NewReader(body)))
	b := a.batch(t)
	if a.status != http.StatusOK || len(b.Result) != 1 || string(b.Result[0].Data) != body[1:len(body)-1] {
		t.Errorf("answered %d with %d bytes", a.status, a.Len())
	}
	many := "[" + strings.Repeat(`{"":1,"":2},`, intake.MaxBatchItems-1) + "{}]"
	b = f.do(t, f.create(t, f.token(t), io.MultiReader(strings.NewReader(many)))).batch(t)
	if len(b.Result) != intake.MaxBatchItems || b.Result[intake.MaxBatchItems-1].Status.Code != intake.CodeInvalid {
		t.Errorf("%d items came back", len(b.Result))
	}
}
