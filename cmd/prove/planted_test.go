package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// A plant is a bug that a run must find. Each breaks one rule that the promises
// rest on.
type plant struct {
	name  string
	shows string // regular expression of a violation that the bug leads to
	edits []edit
	// standby says that the bug shows only with a standby of Postgres.
	standby bool
}

// An edit replaces a piece of a file, which is there once.
type edit struct{ file, old, new string }

var plants = []plant{
	{"mark before commit", "was told to be a duplicate", []edit{
		{"worker/save.go", "\t\tif saved, err = w.save(ctx, chunks); err == nil {\n", `
		if timeline, ok := planted.Load().(string); ok && w.opts.Marker != nil {
			var keys []intake.SavedKey
			for _, chunk := range chunks {
				for _, client := range chunk.Clients {
					keys = append(keys, intake.SavedKey{Partner: chunk.Partner, ID: client.ID, Fingerprint: client.Fingerprint})
				}
			}
			_ = w.opts.Marker.Mark(ctx, timeline, keys)
		}
		saved, err = w.save(ctx, chunks)
		if err == nil {
			planted.Store(saved.Timeline)
		}
		if err == nil {
`},
		{"worker/worker.go", "\ntype Worker struct {\n", "\nvar planted atomic.Value\n\ntype Worker struct {\n"},
	}, false},
	{"claim before write", "was told to be a duplicate", []edit{
		{"dedupe/ask.go", "\t\tanswered, err := s.ask(asking, timeline, partner, clients, seen)\n", `
		answered, err := s.ask(asking, timeline, partner, clients, seen)
		var keys []intake.SavedKey
		for i, client := range clients[:answered] {
			if seen[i] == NotSeen {
				keys = append(keys, intake.SavedKey{Partner: partner, ID: client.ID, Fingerprint: client.Fingerprint})
			}
		}
		_ = s.mark(asking, timeline, keys)
`},
	}, false},
	{"no provenance check", "nobody was told so|was Completed as item|was Completed [0-9] times", []edit{
		{"sink/save.go", "\tif err := g.findFinished(ctx, tx); err != nil {", `
	for _, chunk := range g.chunks {
		if _, err := tx.Exec(ctx, "delete from batch_status where batch_id = $1 and chunk = $2 and not withdrawn", chunk.Batch, chunk.Number); err != nil {
			return nil, err
		}
	}
	if err := g.findFinished(ctx, tx); err != nil {`},
		{"sink/save.go", "if batch == row.chunk.Batch && int(item) == row.client.Item {", "if false {"},
	}, false},
	{"ack before commit", "does not become final", []edit{
		{"worker/save.go", "\tfailpoint.Hit(\"worker/taken\")\n", `
	for _, h := range gathering {
		_ = h.msg.Ack()
	}
	failpoint.Hit("worker/taken")
`},
	}, false},
	{"no key order", "transactions have waited for each other", []edit{
		{"sink/save.go", "strings.Compare(g.clientAt(a).ID, g.clientAt(b).ID)",
			"0 * strings.Compare(g.clientAt(a).ID, g.clientAt(b).ID)"},
		{"sink/save.go", "place{prefixOf(chunk.Clients[j].ID), ", "place{0 * prefixOf(chunk.Clients[j].ID), "},
	}, false},
	{"first statement's snapshot for owners", "was told to be a duplicate, different data", []edit{
		{"sink/save.go", "\tinserted, err := tx.Query(ctx, query, recordIDs", `
	if _, err := tx.Exec(ctx, "select set_config('planted.snapshot', pg_current_snapshot()::text, true)"); err != nil {
		return err
	}
	inserted, err := tx.Query(ctx, query, recordIDs`},
		{"sink/save.go", "join partner_clients c using (partner_id, partner_client_id)`", `join partner_clients c using (partner_id, partner_client_id)
		 where pg_visible_in_snapshot(c.xmin::text::xid8, current_setting('planted.snapshot')::pg_snapshot)` + "`"},
		{"sink/save.go", "\tif err == nil && found < len(beaten) {\n", `
	if err == nil && found < len(beaten) {
		for _, row := range beaten {
			if row.verdict == (intake.Verdict{}) {
				row.verdict = intake.DuplicateOfSaved(false)
			}
		}
		return nil
`},
	}, false},
	{"status rows outside the transaction", "what is there is|was Completed as item", []edit{
		{"sink/save.go", "\terr = s.commit(ctx, conn, append(left, rows.copy())...)\n", `
	other, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	_, err = send(ctx, other.Conn(), func() {}, rows.copy())
	other.Release()
	if err != nil {
		return err
	}
	err = s.commit(ctx, conn, append(left, copyIn{sql: copyStatus})...)
`},
	}, false},
	{"what is found is told without the standby", "does not become final|what is there is|was completed and is", []edit{
		{"sink/standby.go", "where current_setting('synchronous_standby_names') <> '')`\n", "where false)`\n"},
	}, true},
	{"retry with a new batch id", "nobody was told so|was Completed as item", []edit{
		{"worker/queue/publish.go", "\tfailpoint.Hit(\"queue/publishing\")\n", `
	if err := q.commit(ctx, q.messages(base, g), g.deadline()); err == nil {
		return nil
	} else if !refused(err) && g[0].base == uuid.Nil {
		base, _ = newBase()
		for i, s := range g {
			q.forget(s.waiter)
			s.waiter.id = nameBatch(base, i)
			for _, chunk := range s.chunks {
				chunk.Batch = s.waiter.id
			}
			q.remember(s.waiter)
		}
	}
	failpoint.Hit("queue/publishing")
`},
	}, false},
	{"Redis keys without the timeline", "was lost, as Postgres was put back", []edit{
		{"dedupe/slot.go", `prefix := namePrefix + timeline + ":"`, `prefix := namePrefix + timeline[:0] + ":"`},
	}, false},
	{"refusal without withdrawal", "nobody was told so", []edit{
		{"worker/queue/publish.go", "\tok, err := q.opts.Ledger.Withdraw(ctx, g.chunks(), g[0].holder)\n",
			"\tok, err := true, ctx.Err()\n"},
	}, false},
	{"Completed on the strength of the queue", "was completed and is|what is there is|was Completed as item", []edit{
		{"cmd/intake/internal/front/request.go", "\tfailpoint.Hit(\"front/queued\")\n", `
	for i := range q.Verdicts {
		if q.Verdicts[i].Code == intake.CodePending {
			q.Verdicts[i].Code = intake.CodeSaved
		}
	}
`},
	}, false},
	{"the first one in conflict is saved", "is (pending|saved|duplicate_of_saved)", []edit{
		{"dedupe/batch.go", "\t\tverdict = intake.ConflictInRequest(group, key)\n", `
		verdict = intake.ConflictInRequest(group, key)
		group = group[1:]
`},
	}, false},
	{"a takeover inherits a withdrawn batch", "the status of batch .* is answered 404", []edit{
		// By the snapshot of the statement that may have waited for the withdrawal.
		{"sink/idempotency.go", "\t\t       owner = excluded.owner\n", `
		       owner = excluded.owner,
		       batch_id = case when exists (select from batch_status b where b.batch_id = k.batch_id and b.withdrawn)
		                       then excluded.batch_id else k.batch_id end
`},
		{"sink/idempotency.go", "and exists (select from batch_status where batch_id = $4 and withdrawn)", "and false"},
	}, false},
	{"an answer is kept on another request's key", "was duplicate, same data and is completed", []edit{
		{"sink/idempotency.go", "and batch_id = $4 and (owner = $3 or answer is not null)",
			"and $3::uuid is not null and $4::uuid is not null"},
	}, false},
	{"any body with an Idempotency-Key", "sent with another batch, is answered", []edit{
		{"cmd/intake/internal/front/request.go", "sha256.Sum256(q.body)", "sha256.Sum256(nil)"},
	}, false},
}

// overlay returns the file that makes the go command build with a bug.
func (p plant) overlay(t *testing.T, root string) (file string) {
	t.Helper()
	dir := t.TempDir()
	replaced := make(map[string]string)
	for _, e := range p.edits {
		path := filepath.Join(root, e.file)
		from := path
		if earlier, ok := replaced[path]; ok {
			from = earlier
		}
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(content), e.old); n != 1 {
			t.Fatalf("%s has %d times: %s", e.file, n, e.old)
		}
		replaced[path] = filepath.Join(dir, strings.ReplaceAll(e.file, "/", "_"))
		if err := os.WriteFile(replaced[path], []byte(strings.Replace(string(content), e.old, e.new, 1)),
			0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// build makes a program with the bug.
func (p plant) build(t *testing.T) (program string) {
	t.Helper()
	root := moduleRoot(t)
	program = filepath.Join(t.TempDir(), "intake")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "failpoints", "-overlay", p.overlay(t, root),
		"-o", program, "./cmd/intake")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// The bugs still fit into the code, so that make prove-bugs can plant them.
func TestPlants(t *testing.T) {
	root := moduleRoot(t)
	for _, p := range plants {
		build := exec.CommandContext(t.Context(), "go", "build", "-overlay", p.overlay(t, root))
		for _, e := range p.edits {
			build.Args = append(build.Args, "./"+path.Dir(e.file))
		}
		build.Dir = root
		if out, err := build.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", p.name, err, out)
		}
	}
}
