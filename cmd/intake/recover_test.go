package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"intake"
	"intake/internal/local/localtest"
	"intake/worker"
	"intake/worker/queue"
)

// Postgres is restored from a backup. What was saved since is saved again from the
// log, with the same states; nothing else is, and another time there is nothing to do.
func TestLong_Recover(t *testing.T) {
	t.Parallel()
	postgres := localtest.OwnPostgres(t)
	s := startStack(t, stackOptions{flags: serverFlags{PostgresURL: postgres.URL()}, fronts: 2, workers: 2})
	client := s.client(t.Context(), s.fronts[0], "acme", s.secret)
	var mu sync.Mutex
	answers := make(map[string]answer) // final, by status_check_id
	send := func(body, prefer string) {
		t.Helper()
		a, err := post(t.Context(), client, s.fronts[0], []byte(body), prefer)
		if err != nil {
			t.Error(err)
			return
		}
		if a.http == http.StatusAccepted {
			id := a.ID
			localtest.Eventually(t, "the batch is final", func() bool { // refused while Postgres is away
				a, err = check(t.Context(), client, s.fronts[0], id)
				return err == nil && a.http == http.StatusOK && a.Status == intake.Completed
			})
		}
		mu.Lock()
		defer mu.Unlock()
		answers[a.ID] = a
	}
	large := func(name string) string {
		var items []string
		for i := range 2_500 {
			items = append(items, string(itemOf(fmt.Sprintf("%s-%d", name, i), 1)))
		}
		return "[" + strings.Join(items, ",") + ",7]"
	}
	// restart does something while Postgres is stopped.
	restart := func(do ...string) {
		t.Helper()
		ctx := t.Context()
		if err := postgres.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(ctx, "sh", "-c", strings.Join(do, " && ")).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", do, err, out)
		}
		if err := postgres.Start(ctx); err != nil {
			t.Fatal(err)
		}
		localtest.Eventually(t, "Postgres is back", func() bool { return s.conn.Ping(ctx) == nil })
		// A front finds out by failing that its connections are gone.
		for _, f := range s.fronts {
			for range 4 {
				localtest.Eventually(t, "a front has Postgres back", func() bool { return f.store.Ping(ctx) == nil })
			}
		}
	}
	var data string
	if err := s.conn.QueryRow(t.Context(), "show data_directory").Scan(&data); err != nil {
		t.Fatal(err)
	}

	send(large("before"), "")
	restart("cp -a " + data + " " + data + ".backup")
	before := s.count(t, "select count(*) from partner_clients")
	since := time.Now().Add(-time.Second)
	var sending sync.WaitGroup
	for n := range 40 {
		sending.Go(func() {
			// Of two that are sent at once one has a duplicate.
			body := fmt.Sprintf(`[%s,%s,{"partner_client_id":"bad-%d"}]`, itemOf(fmt.Sprintf("small-%d", n/2), 1),
				itemOf(fmt.Sprintf("own-%d", n), 1), n)
			send(body, []string{"wait=30", "respond-async"}[n%2])
		})
	}
	sending.Wait()
	send(large("after"), "respond-async")
	send(large("before"), "wait=30") // all of them are duplicates
	keyed := "[" + itemOf("keyed", 1) + "]"
	firstKeyed := postKeyed(t, client, s.fronts[0], "key", keyed, "wait=30")
	late := s.addPartner(t, "late")
	if err := s.fronts[0].auth.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, err := post(t.Context(), s.client(t.Context(), s.fronts[0], "late", late), s.fronts[0],
		[]byte("["+string(itemOf("late", 1))+"]"), ""); err != nil || a.http != http.StatusOK {
		t.Fatalf("%+v %v", a, err)
	}
	after := s.count(t, "select count(*) from partner_clients") - 1 // without the late one's
	if after != before+20+40+2_500+1 {
		t.Fatalf("%d records after %d", after, before)
	}

	restart("rm -r "+data, "mv "+data+".backup "+data)
	if n := s.count(t, "select count(*) from partner_clients"); n != before {
		t.Fatalf("%d records are left, want %d", n, before)
	}
	recover := func() (r worker.Recovered) {
		t.Helper()
		out, _ := outputOf(t, 1, "recover", "--json", "--since="+since.Format(time.RFC3339Nano),
			"--postgres-url="+s.flags.PostgresURL, "--nats-url="+s.flags.NATSURL)
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		if len(r.Failed) != 1 || !strings.Contains(r.Failed[0], "partner late") {
			t.Errorf("failed: %v", r.Failed)
		}
		return r
	}
	if r := recover(); r.Saved != after-before || r.Items < 40*3+2_501 {
		t.Errorf("recovered %+v, want %d saved", r, after-before)
	}
	for range 2 {
		if n := s.count(t, "select count(*) from saved_clients where claims = 1"); n != after {
			t.Errorf("%d records with their claims, want %d", n, after)
		}
		if r := recover(); r.Saved != 0 || r.MissingChunks != 0 || len(r.NotSaved) > 0 {
			t.Errorf("another time it recovered %+v", r)
		}
	}
	var repeated keyedAnswer
	localtest.Eventually(t, "a repeat is answered", func() bool {
		repeated = postKeyed(t, client, s.fronts[1], "key", keyed, "wait=30")
		return repeated.status != http.StatusServiceUnavailable
	})
	if repeated.status != http.StatusOK || repeated.body != firstKeyed.body {
		t.Errorf("a repeat is answered %s, at first %s", repeated, firstKeyed)
	}
	completed, again := 1, 1 // the one with a key
	for id, before := range answers {
		if id == "" {
			continue // it was answered without being queued
		}
		var a answer
		localtest.Eventually(t, "the batch is final", func() bool {
			var err error
			a, err = check(t.Context(), client, s.fronts[1], id)
			return err == nil && a.http == http.StatusOK && a.Status == intake.Completed
		})
		for i := range a.Result {
			if before.Result[i].Status.Code == intake.CodeSaved {
				completed++
			}
			if a.Result[i].Status.Code == intake.CodeSaved {
				again++
			}
		}
	}
	if completed != again || completed != after {
		t.Errorf("%d items were Completed and %d are, of %d records", completed, again, after)
	}
}

// Dead letters can be seen, tried again and dropped.
func TestDead(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	dead := func(status int, args ...string) string {
		t.Helper()
		out, errs := outputOf(t, status, append([]string{"dead", "--nats-url=" + s.flags.NATSURL}, args...)...)
		return out + errs
	}
	type letter struct {
		Sequence uint64
		Partner  string
		Reason   string
		Items    []json.RawMessage
	}
	list := func() (letters []letter) {
		t.Helper()
		for line := range strings.Lines(dead(0, "--json", "list")) {
			var l letter
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatal(err)
			}
			letters = append(letters, l)
		}
		return letters
	}
	if out := dead(0, "list"); !strings.Contains(out, "no dead letters") {
		t.Error(out)
	}
	// A batch is saved, and forgotten; its message becomes a dead letter, beside
	// one that can't be read.
	client := s.client(t.Context(), s.fronts[0], "acme", s.secret)
	item := itemOf("a", 1)
	if a, err := post(t.Context(), client, s.fronts[0], []byte("["+string(item)+"]"), ""); err != nil ||
		a.http != http.StatusOK {
		t.Fatalf("%+v %v", a, err)
	}
	stream := s.stream(t)
	msg, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.conn.Exec(t.Context(), "truncate partner_clients, client_claims, batch_status"); err != nil {
		t.Fatal(err)
	}
	js := jetStream(t, s.flags.NATSURL)
	put := nats.NewMsg("intake.dead.x")
	put.Data = msg.Data
	put.Header.Set("Intake-Reason", "a test")
	put.Header.Set("Intake-Subject", msg.Subject)
	if _, err := js.PublishMsg(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "intake.batch.waiting.acme.x.0", []byte("\x01rubbish")); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "both are dead letters", func() bool { return len(list()) == 2 })
	letters := list()
	if l := letters[0]; l.Partner != "acme" || l.Reason != "a test" {
		t.Errorf("%+v", l)
	}
	if out := dead(0, "show", "1"); !strings.Contains(out, string(item)) || !strings.Contains(out, "a test") {
		t.Error(out)
	}
	var shown letter
	if err := json.Unmarshal([]byte(dead(0, "--json", "show", "1")), &shown); err != nil || len(shown.Items) != 1 {
		t.Errorf("%+v %v", shown, err)
	}
	postgres := "--postgres-url=" + s.flags.PostgresURL
	for _, args := range [][]string{{"show", "9"}, {"retry", "9"}, {"drop", postgres, "9"}, {"retry"},
		{"drop", postgres}, {"drop", postgres, "1", "--all"}} {
		dead(1, args...)
	}
	dead(0, "retry", "--all")
	localtest.Eventually(t, "the batch is saved",
		func() bool { return s.count(t, "select count(*) from saved_clients where claims = 1") == 1 })
	localtest.Eventually(t, "the unreadable one is back", func() bool { letters = list(); return len(letters) == 1 })
	if letters[0].Sequence != 3 {
		t.Errorf("%+v", letters)
	}
	if out := dead(0, "drop", postgres, "3"); !strings.Contains(out, "letter 3 can't be read in full") {
		t.Error(out)
	}
	if letters = list(); len(letters) > 0 {
		t.Errorf("%+v", letters)
	}
}

func jetStream(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	nc, err := queue.Connect(url, t.Name(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// The seen set is filled again from Postgres.
func TestSeenRebuild(t *testing.T) {
	t.Parallel()
	s := startStack(t, stackOptions{})
	other := s.addPartner(t, "other")
	if err := s.fronts[0].auth.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	const items = seenPage/2 + 100 // of each partner: more than a page, and not a whole number of them
	for name, secret := range map[string]string{"acme": s.secret, "other": other} {
		var batch []string
		for i := range items {
			batch = append(batch, string(itemOf(fmt.Sprintf("%d", i), 1)))
		}
		if a, err := post(t.Context(), s.client(t.Context(), s.fronts[0], name, secret), s.fronts[0],
			[]byte("["+strings.Join(batch, ",")+"]"), "wait=30"); err != nil || a.http != http.StatusOK {
			t.Fatalf("%d %v", a.http, err)
		}
	}
	options, err := redis.ParseURL(s.flags.RedisURL)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	marked := func() (n int) {
		t.Helper()
		keys := client.Scan(t.Context(), 0, "*", 1_000).Iterator()
		for keys.Next(t.Context()) {
			n += int(client.HLen(t.Context(), keys.Val()).Val())
		}
		if keys.Err() != nil {
			t.Fatal(keys.Err())
		}
		return n
	}
	localtest.Eventually(t, "the worker has marked all", func() bool { return marked() == 2*items })
	if err := client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	rebuild := func(status int, flags ...string) string {
		t.Helper()
		out, errs := outputOf(t, status, append([]string{"seen", "rebuild", "--postgres-url=" + s.flags.PostgresURL,
			"--redis-url=" + s.flags.RedisURL}, flags...)...)
		return out + errs
	}
	for range 2 {
		if out, want := rebuild(0), fmt.Sprintf("%d keys marked, %[1]d verified, 0 missing",
			2*items); !strings.Contains(out, want) {
			t.Errorf("says %q, want %q", out, want)
		}
		if n := marked(); n != 2*items {
			t.Errorf("%d keys are marked, want %d", n, 2*items)
		}
	}
	rebuild(1, "--rate=0")
	if err := client.ConfigSet(context.WithoutCancel(t.Context()), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if out := rebuild(1); !strings.Contains(out, "mark") {
		t.Errorf("a full Redis: %s", out)
	}
}
