package sink_test

import (
	"testing"

	"intake"
)

// What is given up is final: it is not saved when it is delivered once more, and what was
// final before stays as it was.
func TestStore_GiveUp(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	c := chunk(client(1, "a", 1), client(3, "b", 2))
	c.Len, c.Number, c.Chunks = 4, 1, 3
	c.Rejected, c.RejectedKeys = invalidAt(0, 2), []string{"rejected", ""}
	saved := chunk(client(0, "saved", 1))
	save(t, store, saved)
	if err := store.GiveUp(t.Context(), "another", c); err != nil {
		t.Fatal(err)
	}
	if finished, err := store.Finished(t.Context(), 1, c.Batch); err != nil || len(finished) > 0 {
		t.Errorf("of a partner that had the number before: %v (%v)", finished, err)
	}
	for range 2 {
		for _, chunk := range []*intake.Chunk{c, saved} {
			if err := store.GiveUp(t.Context(), "acme", chunk); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := []intake.ItemVerdict{
		{Item: 0, Verdict: intake.Invalid("x")}, {Item: 1, Verdict: intake.GivenUp()},
		{Item: 2, Verdict: intake.Invalid("x")}, {Item: 3, Verdict: intake.GivenUp()},
	}
	wantNotSaved(t, save(t, store, c).Outcomes[0], want...)
	wantNotSaved(t, save(t, store, saved).Outcomes[0])
	finished, err := store.Finished(t.Context(), 1, c.Batch)
	if err != nil || len(finished) != 1 {
		t.Fatal(finished, err)
	}
	if f := finished[0]; f.Chunk != 1 || f.Chunks != 3 || f.Keys[0] != "rejected" || f.Keys[3] != "b" {
		t.Errorf("%+v", f)
	}
	if n := count(t, conn, "select count(*) from partner_clients"); n != 1 {
		t.Errorf("%d records, want 1", n)
	}
	if n := count(t, conn, "select sum(completed)::int from batch_status"); n != 1 {
		t.Errorf("%d items count as Completed, want 1", n)
	}
}
