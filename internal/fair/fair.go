// Package fair queues values of several owners and serves the owners in turn, so that an owner
// with many values does not hold up the others.
package fair

import "slices"

// A Queue holds values by owner: round robin between owners, first in first out within one. The
// zero Queue is empty and ready to use. It is not safe for concurrent use.
type Queue[K comparable, V any] struct {
	order  []K // owners with values, the next one first
	values map[K][]V
}

// IsEmpty reports whether the queue holds no values.
func (q *Queue[K, V]) IsEmpty() bool { return len(q.order) == 0 }

// Add appends a value to those of its owner. A new owner is served last.
func (q *Queue[K, V]) Add(owner K, value V) {
	if q.values == nil {
		q.values = make(map[K][]V)
	}
	if len(q.values[owner]) == 0 {
		q.order = append(q.order, owner)
	}
	q.values[owner] = append(q.values[owner], value)
}

// Next returns the values of the owner whose turn it is and leaves them there. The queue must
// not be empty.
func (q *Queue[K, V]) Next() []V { return q.values[q.order[0]] }

// Pop removes and returns the first n values of the owner whose turn it is. If the owner has more,
// its next turn comes after those of all others.
func (q *Queue[K, V]) Pop(n int) []V {
	owner := q.order[0]
	values := q.values[owner]
	q.order = q.order[1:]
	if n == len(values) {
		delete(q.values, owner)
	} else {
		q.values[owner] = values[n:]
		q.order = append(q.order, owner)
	}
	return values[:n:n]
}

// Remove removes the first value of an owner for which match returns true, and reports whether
// there was one.
func (q *Queue[K, V]) Remove(owner K, match func(V) bool) bool {
	values := q.values[owner]
	i := slices.IndexFunc(values, match)
	if i < 0 {
		return false
	}
	if len(values) > 1 {
		q.values[owner] = append(values[:i:i], values[i+1:]...)
		return true
	}
	delete(q.values, owner)
	q.order = slices.DeleteFunc(slices.Clone(q.order), func(k K) bool { return k == owner })
	return true
}

// Drain removes and returns all values, those of the owner that is next first.
func (q *Queue[K, V]) Drain() (values []V) {
	for _, owner := range q.order {
		values = append(values, q.values[owner]...)
	}
	*q = Queue[K, V]{}
	return values
}
