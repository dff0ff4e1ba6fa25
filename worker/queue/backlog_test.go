package queue

import (
	"testing"
	"time"
)

// How long it takes to save what is queued follows what is queued, and how fast
// that was saved in the last seconds.
func TestBacklogEstimate(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000, 0)
	d := new(backlogEstimate)
	see := func(waiting, all, processed uint64) {
		now = now.Add(time.Second)
		d.update(look{waiting, all, processed}, now)
	}
	want := func(lane Lane, least, most time.Duration) {
		t.Helper()
		if left := d.left(lane, now); left < least || left > most {
			t.Errorf("%s are left, want %s to %s", left, least, most)
		}
	}
	want(Later, 0, 0)
	see(0, 0, 500)
	want(Later, 0, 0) // nobody knows yet
	for n := range uint64(5) {
		see(50, 1_000, 600+100*n) // a hundred a second
	}
	want(Later, 9*time.Second, 11*time.Second)
	want(Waiting, 400*time.Millisecond, 600*time.Millisecond)
	d.add("later-1", 1_000)
	d.add(WaitingLane, 100)
	want(Later, 19*time.Second, 23*time.Second)
	want(Waiting, time.Second, 2*time.Second)
	see(50, 3_000, 1_100)
	want(Later, 28*time.Second, 32*time.Second)
	for n := range uint64(10) {
		see(50, 3_000, 2_100+1_000*n) // ten times as fast
	}
	want(Later, 2*time.Second, 4*time.Second)
	see(50, 9_000, 11_100)
	see(50, 9_000, 11_100) // nothing is saved: the store is down
	want(Later, 0, 0)
	see(0, 0, 20_100)
	want(Later, 0, 0)
	see(10, 10, 5) // the consumers are new
	want(Later, 0, 0)
	for n := range uint64(60) { // one a second, as that is all that comes
		see(1, 1, 6+n)
	}
	d.add("later-1", 100)
	want(Later, 0, 0)
}

// What was seen some seconds ago is not known any more.
func TestBacklogEstimate_Stale(t *testing.T) {
	t.Parallel()
	d, now := new(backlogEstimate), time.Unix(1_000, 0)
	for n := range uint64(3) {
		now = now.Add(time.Second)
		d.update(look{0, 1_000, 500 + 100*n}, now)
	}
	if left := d.left(Later, now.Add(fresh)); left < 9*time.Second {
		t.Errorf("%s are left after a look that is fresh", left)
	}
	if left := d.left(Later, now.Add(fresh+time.Millisecond)); left != 0 {
		t.Errorf("%s are left after a look that is not", left)
	}
}

// The second in which the data store comes back says little about its speed.
func TestBacklogEstimate_AfterStall(t *testing.T) {
	t.Parallel()
	d := new(backlogEstimate)
	for second, l := range []look{{0, 0, 100}, {0, 0, 200}, {0, 300, 200}, {0, 600, 200}, {0, 800, 203}} {
		d.update(l, time.Unix(int64(1_000+second), 0))
		if left := d.left(Later, time.Unix(int64(1_000+second), 0)); left > 0 {
			t.Errorf("second %d: %s are left, which nobody knows", second, left)
		}
	}
	d.update(look{0, 700, 603}, time.Unix(1_005, 0))
	if left := d.left(Later, time.Unix(1_005, 0)); left < time.Second || left > 2*time.Second {
		t.Errorf("%s are left of 700 messages, 400 a second", left)
	}
}
