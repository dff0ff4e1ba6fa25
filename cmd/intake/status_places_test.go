package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"intake"
)

// largeBatch returns a batch of n items, of a thousand a chunk.
func largeBatch(name string, n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, `%c{"partner_client_id":"%s-%d","entity_type":"X"}`, "[,"[min(i, 1)], name, i)
	}
	b.WriteByte(']')
	return b.Bytes()
}

// wantChunks checks the states of a batch of largeBatch, each chunk of which has one of these codes.
func wantChunks(t *testing.T, a answer, name string, want ...intake.Code) {
	t.Helper()
	if a.http != http.StatusOK || len(a.Result) == 0 {
		t.Fatalf("answered %d %s with %d items", a.http, a.refused.Detail, len(a.Result))
	}
	final := true
	for i := range a.Result {
		code := want[i/1_000]
		final = final && code != intake.CodePending
		if got := a.Result[i].Status; got.Code != code {
			t.Fatalf("item %d is %s %q, want %s", i, got.Code, got.Reason, code)
		}
		if !strings.Contains(string(a.Result[i].Data), fmt.Sprintf(`"partner_client_id":"%s-%d"`, name, i)) {
			t.Fatalf("item %d is %s", i, a.Result[i].Data)
		}
	}
	if state := map[bool]intake.State{true: intake.Completed, false: intake.Pending}[final]; a.Status != state {
		t.Errorf("the batch is %v, want %s", a.Status, state)
	}
}

// Of a batch of three chunks one is saved and out of the log, one waits in the log, and one is a
// dead letter. It is Pending, and final when the operator has seen to the letter.
func TestStatus_InEachPlace(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	client := s.client(t.Context(), s.fronts[0], "acme", s.secret)
	js, stream := jetStream(t, s.flags.NATSURL), s.stream(t)
	scatter := func(name string) (id string) {
		t.Helper()
		a, err := post(t.Context(), client, s.fronts[0], largeBatch(name, 2_500), "respond-async")
		if err != nil || a.http != http.StatusAccepted {
			t.Fatalf("%+v %v", a, err)
		}
		final(t, client, s.fronts[0], a.ID)
		message := func(n int) *jetstream.RawStreamMsg {
			t.Helper()
			msg, err := stream.GetLastMsgForSubject(t.Context(), fmt.Sprintf("intake.batch.*.acme.%s.%d", a.ID, n))
			if err != nil {
				t.Fatal(err)
			}
			return msg
		}
		put := nats.NewMsg("intake.dead." + strings.TrimPrefix(message(2).Subject, "intake.batch."))
		put.Data = message(2).Data
		put.Header.Set("Intake-Reason", "a test")
		put.Header.Set("Intake-Subject", message(2).Subject)
		if _, err := js.PublishMsg(t.Context(), put); err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{0, 2} {
			if err := stream.DeleteMsg(t.Context(), message(n).Sequence); err != nil {
				t.Fatal(err)
			}
		}
		// As if the others had not been saved yet.
		if _, err := s.conn.Exec(t.Context(), "delete from batch_status where batch_id = $1 and chunk > 0",
			a.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := s.conn.Exec(t.Context(), "delete from partner_clients where batch_id = $1 and item >= 1000",
			a.ID); err != nil {
			t.Fatal(err)
		}
		return a.ID
	}
	status := func(id string) answer {
		t.Helper()
		a, err := check(t.Context(), client, s.fronts[0], id)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	dead := func(args ...string) string {
		t.Helper()
		out, errs := outputOf(t, 0, append([]string{"dead", "--nats-url=" + s.flags.NATSURL}, args...)...)
		return out + errs
	}
	const saved, pending, refused = intake.CodeSaved, intake.CodePending, intake.CodeRefused

	id := scatter("retried")
	wantChunks(t, status(id), "retried", saved, pending, pending)
	// The others are queued again, as if the worker had only now come to them.
	msg, err := stream.GetLastMsgForSubject(t.Context(), "intake.batch.*.acme."+id+".1")
	if err != nil {
		t.Fatal(err)
	}
	requeue := func(msg *jetstream.RawStreamMsg) {
		t.Helper()
		if _, err := js.Publish(t.Context(), msg.Subject, msg.Data); err != nil {
			t.Fatal(err)
		}
	}
	requeue(msg)
	dead("retry", "--all")
	wantChunks(t, final(t, client, s.fronts[0], id), "retried", saved, saved, saved)

	id = scatter("dropped")
	wantChunks(t, status(id), "dropped", saved, pending, pending)
	dead("drop", "--postgres-url="+s.flags.PostgresURL, "--all")
	a := status(id)
	wantChunks(t, a, "dropped", saved, pending, refused)
	if text := a.Result[2_499].Status.Reason; !strings.Contains(text, "given up by the operator") {
		t.Errorf("an item of the letter says %q", text)
	}
	if msg, err = stream.GetLastMsgForSubject(t.Context(), "intake.batch.*.acme."+id+".1"); err != nil {
		t.Fatal(err)
	}
	requeue(msg)
	wantChunks(t, final(t, client, s.fronts[0], id), "dropped", saved, saved, refused)
	if n := s.count(t, "select count(*) from partner_clients where partner_client_id like 'dropped-%'"); n != 2_000 {
		t.Errorf("%d records of the batch whose last chunk was given up, want 2000", n)
	}

}

// Items come back whole however large they are, valid or not, and also from a batch of
// which nothing had to be saved.
func TestStatus_LargeItems(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	client := s.client(t.Context(), s.fronts[0], "acme", s.secret)
	blanks := strings.Repeat(" ", 9<<20)
	random := make([]byte, 3<<20)
	_, _ = rand.Read(random)
	items := []string{
		`{"partner_client_id":"blanks","entity_type":` + blanks + `"X"}`,
		`{"partner_client_id":"small","entity_type":"X"}`,
		`{"partner_client_id":"unknown","entity_type":"X","x":"` + hex.EncodeToString(random) + `"}`,
	}
	for _, test := range []struct {
		items []string
		key   string
		want  []intake.Code
	}{
		{items, "", []intake.Code{intake.CodeSaved, intake.CodeSaved, intake.CodeInvalid}},
		{items[2:], "nothing-to-save", []intake.Code{intake.CodeInvalid}},
	} {
		body := strings.NewReader("[" + strings.Join(test.items, ",") + "]")
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.fronts[0].url()+"/api/v1/clients",
			body)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Prefer", "respond-async, return=minimal")
		if test.key != "" {
			request.Header.Set("Idempotency-Key", test.key)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		var first answer
		err = json.NewDecoder(response.Body).Decode(&first)
		response.Body.Close()
		if err != nil || first.ID == "" {
			t.Fatalf("%d %+v (%v)", response.StatusCode, first, err)
		}
		a := final(t, client, s.fronts[0], first.ID)
		for i, item := range test.items {
			if got := a.Result[i]; got.Status.Code != test.want[i] || string(got.Data) != item {
				t.Errorf("item %d is %s, and comes back with %d bytes of %d", i, got.Status.Code, len(got.Data),
					len(item))
			}
		}
	}
}
