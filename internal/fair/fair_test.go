package fair_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"intake/internal/fair"
)

// Owners take turns, whatever one of them has added, and each one's values keep their order.
func TestQueue(t *testing.T) {
	t.Parallel()
	var q fair.Queue[string, int]
	if !q.IsEmpty() {
		t.Fatal("a new queue is not empty")
	}
	for n := range 5 {
		q.Add("a", n)
	}
	q.Add("b", 10)
	q.Add("c", 20)
	for i, step := range []struct {
		next []int // of the owner whose turn it is
		pop  int
	}{{[]int{0, 1, 2, 3, 4}, 2}, {[]int{10}, 1}, {[]int{20}, 1}, {[]int{2, 3, 4}, 1}} {
		if diff := cmp.Diff(step.next, q.Next()); diff != "" {
			t.Errorf("turn %d: next: -want +got\n%s", i, diff)
		}
		if diff := cmp.Diff(step.next[:step.pop], q.Pop(step.pop)); diff != "" {
			t.Errorf("turn %d: popped: -want +got\n%s", i, diff)
		}
	}
	q.Add("b", 11)
	if diff := cmp.Diff([]int{3, 4, 11}, q.Drain()); diff != "" {
		t.Errorf("drained: -want +got\n%s", diff)
	}
	if !q.IsEmpty() {
		t.Error("a drained queue is not empty")
	}
}

// A value is removed once, and an owner without values has no turn.
func TestQueue_Remove(t *testing.T) {
	t.Parallel()
	var q fair.Queue[string, int]
	is := func(want int) func(int) bool { return func(n int) bool { return n == want } }
	q.Add("a", 1)
	q.Add("b", 2)
	q.Add("b", 3)
	for i, step := range []struct {
		owner   string
		value   int
		removed bool
	}{{"a", 2, false}, {"a", 1, true}, {"a", 1, false}, {"b", 2, true}} {
		if removed := q.Remove(step.owner, is(step.value)); removed != step.removed {
			t.Errorf("step %d: removed is %v, want %v", i, removed, step.removed)
		}
	}
	if diff := cmp.Diff([]int{3}, q.Next()); diff != "" {
		t.Errorf("left: -want +got\n%s", diff)
	}
}
